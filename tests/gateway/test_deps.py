"""What handlers get passed in."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute


def routes_of(routes: list[BaseRoute]) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        yield from routes_of(getattr(getattr(route, "original_router", route), "routes", []))


def calls_of(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    if dependant.call is not None:
        yield dependant.call
    for dependency in dependant.dependencies:
        yield from calls_of(dependency)


def is_coroutine(call: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


def test_nothing_that_serves_a_request_runs_in_a_thread(gateway: FastAPI) -> None:
    """Each hop to a thread and back takes longer than what our dependencies do."""
    routes = list(routes_of(gateway.router.routes))
    in_threads = {call for route in routes for call in calls_of(route.dependant) if not is_coroutine(call)}

    assert len(routes) > 50
    assert in_threads == set()
