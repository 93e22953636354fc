"""A chat as most people write it: synchronous FastAPI, SQLModel, the openai client, all in the request.

uvicorn bench.peers.plain.app:app
"""

import json
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from openai import OpenAI
from pydantic import BaseModel
from sqlmodel import Field, Session, SQLModel, create_engine, select

engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:"), pool_size=20, max_overflow=40
)
client = OpenAI()


class Conversation(SQLModel, table=True):
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)


class Message(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    conversation_id: uuid.UUID = Field(foreign_key="conversation.id", index=True)
    role: str
    content: str


class Post(BaseModel):
    content: str


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    SQLModel.metadata.create_all(engine)
    yield


app = FastAPI(lifespan=lifespan)


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/conversations")
def create_conversation(session: Annotated[Session, Depends(get_session)]) -> Conversation:
    conversation = Conversation()
    session.add(conversation)
    session.commit()
    session.refresh(conversation)
    return conversation


@app.post("/conversations/{conversation_id}/messages")
def post_message(conversation_id: uuid.UUID, post: Post) -> StreamingResponse:
    with Session(engine) as session:
        session.add(Message(conversation_id=conversation_id, role="user", content=post.content))
        session.commit()
        statement = select(Message).where(Message.conversation_id == conversation_id).order_by(Message.id)
        history = [{"role": message.role, "content": message.content} for message in session.exec(statement)]
    return StreamingResponse(answer(conversation_id, history), media_type="text/event-stream")


def answer(conversation_id: uuid.UUID, history: list[dict[str, str]]) -> Iterator[str]:
    pieces = []
    stream = client.chat.completions.create(model="bench", messages=history, stream=True)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            pieces.append(chunk.choices[0].delta.content)
            yield f"data: {json.dumps({'delta': pieces[-1]})}\n\n"
    with Session(engine) as session:
        session.add(Message(conversation_id=conversation_id, role="assistant", content="".join(pieces)))
        session.commit()
    yield f"data: {json.dumps({'done': True})}\n\n"
