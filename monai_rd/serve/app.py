"""The pages, and what their script asks for. No part of an address, nor any name that is sent, becomes a path."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from monai_rd.files import size_in_words
from monai_rd.integrations.dicom_output import RESEARCH_ONLY
from monai_rd.report.page import style_sheet
from monai_rd.serve.answers import FLAGS, Answer, slice_of, whole_of
from monai_rd.serve.guard import Guard, Sessions
from monai_rd.serve.jobs import Job, Jobs
from monai_rd.serve.limits import Limits, RefusedError

if TYPE_CHECKING:
    from monai_rd.inference import Predictor

__all__ = ["web_page"]

_TEMPLATES = Environment(
    loader=PackageLoader("monai_rd.serve"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_STATIC = Path(__file__).parent / "templates"
_NAME_BYTES = 8192  # of a file with its folders, percent-encoded
_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"


def web_page(
    predictor: Predictor,
    folder: str | os.PathLike[str],
    report: str | os.PathLike[str],
    host: str,
    port: int,
    token: str | None,
    limits: Limits | None = None,
) -> ASGIApp:
    """Make the application that a server such as uvicorn runs.

    Args:
        predictor: loaded once, for all uploads.
        folder: an empty folder, readable by its owner alone, which is removed at the server's end.
        report: the page of the training's report, which may be missing.
        host: to which the server listens.
        port: to which the server listens.
        token: what a browser has to show before it sees anything; None: nothing, only for a host that is `is_loopback`.
        limits: of uploads; by default `Limits()`.
    """
    limits = limits or Limits()
    jobs, sessions = Jobs(predictor, Path(folder), limits), Sessions(port, token)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()
        shutil.rmtree(folder, ignore_errors=True)

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _add_errors(app)
    _add_pages(app, jobs, sessions, Path(report))
    _add_uploads(app, jobs)
    _add_results(app, jobs)
    return Guard(app, host, sessions)


def _add_errors(app: FastAPI) -> None:
    def told(request: Request, message: str, status: int) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return _page("error.html", status, message=message)
        return PlainTextResponse(message, status)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return told(request, str(error), error.status)

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> Response:
        return told(request, "There is no such page.", error.status_code)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return told(request, "There is no such page.", 404)


def _add_pages(app: FastAPI, jobs: Jobs, sessions: Sessions, report: Path) -> None:
    style = style_sheet() + (_STATIC / "page.css").read_text(encoding="utf-8")
    student, limits = jobs.predictor, jobs.limits

    @app.get("/")
    def start(request: Request) -> Response:
        session = request.state.session
        if sessions.token is not None and not session:
            return _page("login.html")
        return _page(
            "start.html",
            name=student.algorithm.name,
            classes=student.classifier.class_names,
            modalities=student.modalities,
            multi_label=student.classifier.multi_label,
            report=report.is_file(),
            jobs=jobs.of(session),
            limits=limits,
            size=size_in_words(limits.sent),
            kept=round(limits.seconds / 60),
        )

    @app.post("/login")
    async def login(request: Request) -> Response:
        token = b""
        async for chunk in request.stream():
            token += chunk
            if len(token) > 200:
                break
        if not sessions.admits(token.decode("utf-8", "replace").strip()):
            raise RefusedError("This is not the token. The program has printed it.", 403)
        return Response(status_code=204, headers={"Set-Cookie": sessions.new_cookie()})

    @app.get("/page.css")
    def css() -> Response:
        return Response(style, media_type="text/css")

    @app.get("/page.js")
    def script() -> Response:
        return FileResponse(_STATIC / "page.js", media_type="text/javascript")

    @app.get("/report")
    def training() -> Response:
        if not report.is_file():
            raise RefusedError("There is no report of the training.", 404)
        return FileResponse(report, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})


def _add_uploads(app: FastAPI, jobs: Jobs) -> None:
    @app.post("/jobs")
    def new(request: Request) -> dict[str, str]:
        return {"id": jobs.new(_session(request)).id}

    @app.put("/jobs/{job}/files/{number}", status_code=204)
    async def receive(request: Request, job: str, number: int) -> Response:
        found = jobs.get(job, _session(request))
        if found.state != "receiving":
            raise RefusedError("This upload was started before.", 409)
        name, announced = request.headers.get("x-name", ""), request.headers.get("content-length")
        if len(name) > _NAME_BYTES:
            raise RefusedError("A file has too long a name.")
        size = int(announced) if announced is not None and announced.isdecimal() else None
        try:
            packed = await found.uploads.receive(number, unquote(name), size, request.stream())
        except ClientDisconnect:
            return Response(status_code=400)
        if packed is not None:
            await run_in_threadpool(found.uploads.unpack, packed)
        return Response(status_code=204)

    @app.post("/jobs/{job}/start", status_code=204)
    def begin(request: Request, job: str) -> Response:
        jobs.start(jobs.get(job, _session(request)))
        return Response(status_code=204)

    @app.delete("/jobs/{job}", status_code=204)
    def remove(request: Request, job: str) -> Response:
        jobs.remove(jobs.get(job, _session(request)))
        return Response(status_code=204)


def _add_results(app: FastAPI, jobs: Jobs) -> None:
    kept = round(jobs.limits.seconds / 60)

    def finished(request: Request, job: str) -> Job:
        found = jobs.get(job, _session(request))
        if found.state != "done":
            raise RefusedError("There is no answer yet.", 409)
        return found

    def study(request: Request, job: str, number: int) -> tuple[Job, Answer]:
        found = finished(request, job)
        if number not in found.answers or found.answers[number].prediction.problem:
            raise RefusedError("There is no such study.", 404)
        return found, found.answers[number]

    @app.get("/jobs/{job}")
    def results(request: Request, job: str) -> Response:
        found = jobs.get(job, _session(request))
        return _page("job.html", job=found, before=jobs.before(found), kept=kept)

    @app.get("/jobs/{job}/state")
    def state(request: Request, job: str) -> dict[str, Any]:
        found = jobs.get(job, _session(request))
        told = {"state": found.state, "done": found.done, "total": found.total, "before": jobs.before(found)}
        return {**told, "drawn": {number: found.answers[number].drawn is not None for number in found.drawn}}

    @app.get("/jobs/{job}/scores.csv")
    def scores(request: Request, job: str) -> Response:
        return FileResponse(finished(request, job).scores, media_type="text/csv", filename="scores.csv")

    @app.get("/jobs/{job}/reports.zip")
    def reports(request: Request, job: str) -> Response:
        return FileResponse(finished(request, job).archive, media_type="application/zip", filename="dicom_reports.zip")

    @app.get("/jobs/{job}/studies/{number}")
    def slices(request: Request, job: str, number: int) -> Response:
        found, answer = study(request, job, number)
        jobs.draw(found, number)
        return _page("study.html", job=found, number=number, answer_of=answer)

    @app.get("/jobs/{job}/studies/{number}/picture.png")
    def picture(request: Request, job: str, number: int) -> Response:
        found, answer = study(request, job, number)
        if answer.drawn is None:
            raise RefusedError("There is no picture yet.", 404)
        return FileResponse(whole_of(found.folder, number), media_type="image/png", filename="picture.png")

    @app.get("/jobs/{job}/studies/{number}/{kind}/{place}")
    def part(request: Request, job: str, number: int, kind: Literal["image", "heat"], place: int) -> Response:
        found, answer = study(request, job, number)
        if answer.drawn is None or not 0 <= place <= len(answer.drawn.places):
            raise RefusedError("There is no such picture.", 404)
        shown = place or answer.drawn.shown  # 0: the one with the most evidence
        return FileResponse(slice_of(found.folder, number, kind, shown), media_type="image/jpeg")


def _session(request: Request) -> str:
    session: str = request.state.session
    if not session:
        raise RefusedError("Open the first page, and allow its cookie.", 401)
    return session


def _page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    known: Mapping[str, Any] = {"research_only": RESEARCH_ONLY, "flags": FLAGS}
    return HTMLResponse(_TEMPLATES.get_template(template).render(**known, **values), status)
