"""OpenAI's own client, strict about what it gets."""

import httpx2
import openai

from tests.support.stack import token_of


def strict_client(http: httpx2.AsyncClient, user_id: str) -> openai.AsyncOpenAI:
    """As `user_id`, by `http`, which it closes. It refuses answers that are not of the types that it knows."""
    return openai.AsyncOpenAI(
        base_url="http://gateway/v1",
        api_key=token_of(user_id),
        http_client=http,
        max_retries=0,
        _strict_response_validation=True,
    )
