"""What becomes of a delivery of `chat.jobs`: decoded, run, and settled once, here and nowhere else."""

from typing import Any

from aiormq.exceptions import AMQPError
from faststream.rabbit import RabbitMessage

from chat_worker.runner import Runner, Verdict
from shared import tracing
from shared.contracts import JobReady, Refusal, RefusedMessageError, decode
from shared.messaging import JOBS, refuse
from shared.observability import get_logger

log = get_logger()


async def undecoded(message: Any) -> Any:
    """For FastStream, whose own decoding of a bad body would leave the delivery unsettled for ever."""
    return message


async def take_delivery(message: RabbitMessage, runner: Runner) -> None:
    """Run the job that the delivery names.

    Cancelled (the channel was lost, or the process stops), it settles nothing: the broker delivers again.
    """
    try:
        ready = _job_ready(message.body)
        sent_by = tracing.sent_by(message.raw_message.headers, ready.job_id)
        verdict = await runner.run(ready, delivery_id=message.raw_message.message_id, sent_by=sent_by)
    except RefusedMessageError as error:
        refuse(JOBS, error, len(message.body), message.raw_message.message_id)
        await _settle(message.reject(requeue=False))
    except Exception:  # a bug; the broker's fuse ends what never gets further
        log.exception("delivery_crashed")
        await _settle(message.nack(requeue=True))
    else:
        await _settle(message.ack() if verdict is Verdict.SETTLED else message.nack(requeue=True))


def _job_ready(body: bytes) -> JobReady:
    message = decode(body)
    if not isinstance(message, JobReady):
        raise RefusedMessageError(Refusal.MISPLACED, f"{type(message).__name__} is not for this queue")
    return message


async def _settle(answer: Any) -> None:
    try:
        await answer
    except (AMQPError, RuntimeError) as error:
        # The channel is gone and the delivery comes again; the claim decides then, so nothing depends on this.
        log.warning("delivery_not_settled", cause=type(error).__name__)
