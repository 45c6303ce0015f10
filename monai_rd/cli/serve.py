"""`monai-rd serve`: a page in the browser for people who drop images and read answers."""

from __future__ import annotations

import secrets
import signal
import socket
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from monai_rd.console import Words

__all__ = ["serve"]


def serve(
    bundle: Annotated[str, typer.Argument(help="Name of a bundle, or folder of a trained bundle.")],
    words: Words = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen to. By default only this computer can open the page; for any other address a token "
            "is printed, and images travel unencrypted."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen to; 0 takes a free one.")] = 8000,
) -> None:
    """Show a page on which people drop images and read the answers of a trained bundle, until Ctrl+C.

    What they send is kept in a private temporary folder, and deleted as soon as it is not needed any more. Arguments
    after -- are for the bundle's inference.json, such as -- --bundle_root DIR.
    """
    missing = [name for name in ("fastapi", "uvicorn", "highdicom") if find_spec(name) is None]
    if missing:
        raise ValueError(f'the page needs {", ".join(missing)}: pip install "monai_rd[serve]"')
    from monai_rd.bundle import parse_overrides
    from monai_rd.inference import Predictor, TrainedBundle
    from monai_rd.serve.app import web_page
    from monai_rd.serve.folders import new_folder
    from monai_rd.serve.guard import is_loopback
    from monai_rd.serve.server import listening, web_server

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the folder is removed
    with listening(host, port) as listener, new_folder(Path(tempfile.gettempdir())) as folder:
        trained = TrainedBundle(bundle, **parse_overrides(words or ()))
        report = Path(trained.parsed("output_dir")) / "report.html"
        port = listener.getsockname()[1]
        token = None if is_loopback(host) else secrets.token_urlsafe(24)
        server = web_server(web_page(Predictor(trained), folder, report, host, port, token))
        if hasattr(signal, "SIGHUP"):  # the terminal is closed
            signal.signal(signal.SIGHUP, server.handle_exit)
        every = host in ("0.0.0.0", "::")
        named = socket.gethostname() if every else f"[{host}]" if ":" in host else host
        print(f"Open this address in a browser: http://{named}:{port}/" + (f"#{token}" if token else ""))
        if token:
            print("Whoever has it may send images. They travel unencrypted: use it in a network that you trust.")
        print("For research only, not for clinical use. Ctrl+C ends it and deletes what was sent.", flush=True)
        server.run(sockets=[listener])
