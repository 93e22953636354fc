"""What the tool server reads from its environment, with its limits."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from shared.db.tasks import DESCRIPTION_CHARS_MAX, TITLE_CHARS_MAX
from shared.settings import ServiceSettings, well_known


class TaskToolsSettings(ServiceSettings):
    """Variables are prefixed TASK_TOOLS_, but for the secret, which the chat worker shares."""

    model_config = SettingsConfigDict(env_prefix="TASK_TOOLS_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8090
    # Host headers that are answered, against DNS rebinding; "name:*" stands for any port, "name" for none.
    allowed_hosts: tuple[str, ...] = ("127.0.0.1:*", "localhost:*", "[::1]:*", "task-tools:*")
    body_bytes_max: Annotated[int, Field(ge=1_024)] = 64 * 1_024

    tool_token_secret: SecretStr = well_known("TOOL_TOKEN_SECRET")
    tool_token_previous_secrets: tuple[SecretStr, ...] = well_known("TOOL_TOKEN_PREVIOUS_SECRETS", default=())
    database_url: SecretStr = well_known("TASK_TOOLS_DATABASE_URL")
    database_pool_size: Annotated[int, Field(ge=1)] = 5

    title_chars_max: Annotated[int, Field(ge=1, le=TITLE_CHARS_MAX)] = TITLE_CHARS_MAX
    description_chars_max: Annotated[int, Field(ge=0, le=DESCRIPTION_CHARS_MAX)] = DESCRIPTION_CHARS_MAX
    tasks_per_user_max: Annotated[int, Field(ge=1)] = 1_000
    listed_tasks_max: Annotated[int, Field(ge=1)] = 100
