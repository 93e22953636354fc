"""`/v1/models`: the agents, under the name by which clients know such things."""

from fastapi import APIRouter
from pydantic import BaseModel

from gateway.deps import CurrentUser
from gateway.intake import UserRoute
from gateway.problems import V1_ERRORS
from shared.agents import AGENTS, Agent
from shared.errors import NotFoundError

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=UserRoute, responses=V1_ERRORS)

# The field is required, and an agent has no date: 1 January 2026, UTC.
_CREATED = 1_767_225_600


class Model(BaseModel):
    """An agent. `description` is ours; OpenAI's clients ignore it."""

    id: str
    object: str = "model"
    created: int = _CREATED
    owned_by: str = "parley"
    description: str

    @classmethod
    def of(cls, agent: Agent) -> "Model":
        return cls(id=agent.name, description=agent.description)


class ModelList(BaseModel):
    object: str = "list"
    data: list[Model]


@router.get("", summary="List agents")
async def list_models(_user: CurrentUser) -> ModelList:
    """What `model` may name in a request."""
    return ModelList(data=[Model.of(agent) for agent in AGENTS.values()])


@router.get("/{model}", summary="Retrieve an agent")
async def retrieve_model(_user: CurrentUser, model: str) -> Model:
    agent = AGENTS.get(model)
    if agent is None:
        raise NotFoundError("model_not_found", "No such model.", param="model")
    return Model.of(agent)
