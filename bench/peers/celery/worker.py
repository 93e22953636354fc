"""Answers are made by Celery, with Redis as its broker, and told word by word on a channel of Redis.

celery --app bench.peers.celery.worker worker
"""

import json
import os
import uuid

import redis
from celery import Celery
from openai import OpenAI
from sqlmodel import Session, select

from bench.peers.celery.model import Message, engine

app = Celery("chat", broker=os.environ["REDIS_URL"])
app.conf.task_acks_late = True  # a worker that dies is replaced
app.conf.task_ignore_result = True
client = OpenAI()
bus = redis.Redis.from_url(os.environ["REDIS_URL"])


@app.task
def answer(job_id: str, conversation_id: str) -> None:
    with Session(engine) as session:
        statement = select(Message).where(Message.conversation_id == uuid.UUID(conversation_id)).order_by(Message.id)
        history = [{"role": message.role, "content": message.content} for message in session.exec(statement)]
    pieces = []
    for chunk in client.chat.completions.create(model="bench", messages=history, stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            pieces.append(chunk.choices[0].delta.content)
            bus.publish(job_id, json.dumps({"delta": pieces[-1]}))
    with Session(engine) as session:
        session.add(Message(conversation_id=uuid.UUID(conversation_id), role="assistant", content="".join(pieces)))
        session.commit()
    bus.publish(job_id, json.dumps({"done": True}))
