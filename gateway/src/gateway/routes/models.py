"""`/v1/models`: the agents, under the name by which clients know such things."""

from fastapi import APIRouter
from pydantic import BaseModel

from gateway.deps import CurrentUser, Settings
from gateway.intake import UserRoute
from gateway.problems import V1_ERRORS
from gateway.settings import GatewaySettings, ModelInput
from shared.agents import AGENTS, Agent
from shared.errors import NotFoundError

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=UserRoute, responses=V1_ERRORS)

# The field is required, and an agent has no date: 1 January 2026, UTC.
_CREATED = 1_767_225_600


class Model(BaseModel):
    """An agent. `description`, `inputs` and `file_bytes_max` are ours; OpenAI's clients ignore them.

    `inputs` are the kinds of content that a message may bring; an image or a file has at most `file_bytes_max`.
    """

    id: str
    object: str = "model"
    created: int = _CREATED
    owned_by: str = "parley"
    description: str
    inputs: list[ModelInput]
    file_bytes_max: int

    @classmethod
    def of(cls, agent: Agent, settings: GatewaySettings) -> "Model":
        return cls(
            id=agent.name,
            description=agent.description,
            inputs=sorted(settings.model_inputs),
            file_bytes_max=settings.file_bytes_max,
        )


class ModelList(BaseModel):
    object: str = "list"
    data: list[Model]


@router.get("", summary="List agents")
async def list_models(_user: CurrentUser, settings: Settings) -> ModelList:
    """What `model` may name in a request."""
    return ModelList(data=[Model.of(agent, settings) for agent in AGENTS.values()])


@router.get("/{model}", summary="Retrieve an agent")
async def retrieve_model(_user: CurrentUser, settings: Settings, model: str) -> Model:
    agent = AGENTS.get(model)
    if agent is None:
        raise NotFoundError("model_not_found", "No such model.", param="model")
    return Model.of(agent, settings)
