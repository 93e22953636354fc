"""The web process of a chat whose answers Celery makes: it stores, hands on, and streams what Redis tells.

uvicorn bench.peers.celery.app:app
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio as redis
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlmodel import Session, SQLModel

from bench.peers.celery.model import Conversation, Message, engine
from bench.peers.celery.worker import answer

bus = redis.Redis.from_url(os.environ["REDIS_URL"])


class Post(BaseModel):
    content: str


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    SQLModel.metadata.create_all(engine)
    yield
    await bus.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/conversations")
def create_conversation() -> Conversation:
    with Session(engine) as session:
        conversation = Conversation()
        session.add(conversation)
        session.commit()
        session.refresh(conversation)
        return conversation


@app.post("/conversations/{conversation_id}/messages")
async def post_message(conversation_id: uuid.UUID, post: Post) -> StreamingResponse:
    await run_in_threadpool(store, conversation_id, post.content)
    return StreamingResponse(events(conversation_id), media_type="text/event-stream")


def store(conversation_id: uuid.UUID, content: str) -> None:
    with Session(engine) as session:
        session.add(Message(conversation_id=conversation_id, role="user", content=content))
        session.commit()


async def events(conversation_id: uuid.UUID) -> AsyncIterator[str]:
    """Listen first, then hand the job on: what is told before somebody listens is lost."""
    job_id = uuid.uuid4().hex
    async with bus.pubsub() as listener:
        await listener.subscribe(job_id)
        await run_in_threadpool(answer.delay, job_id, str(conversation_id))
        async for message in listener.listen():
            if message["type"] == "message":
                said = message["data"].decode()
                yield f"data: {said}\n\n"
                if '"done"' in said:
                    return
