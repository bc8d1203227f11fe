"""`lion serve`: an HTTP server that speaks OpenAI's chat completions."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from pathlib import Path
from typing import Any

from lion_multimodal.cli.arguments import natural_int, non_negative_number, not_empty, positive_int, positive_number


API_KEY = "LION_API_KEY"
"""The environment variable that holds an API key."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `serve`."""
    parser = subparsers.add_parser(
        "serve",
        help="serve a checkpoint to OpenAI's clients",
        description="Serve a checkpoint over HTTP, as OpenAI's chat completions: images by address or data: URL, "
        "streamed answers, boxes in pixels. Questions that come at the same time are answered together, whatever "
        "their level. SIGTERM ends it when all accepted requests are answered.",
    )
    parser.add_argument("--model", metavar="REPO_OR_DIR", help="checkpoint (default: the nano in this package)")
    parser.add_argument("--adapter", metavar="REPO_OR_DIR", help="PEFT adapter on top of it, of `lion finetune`")
    parser.add_argument("--device", help="for example cuda:0 or cpu (default: an accelerator where there is one)")
    dtypes = ["auto", "float32", "bfloat16", "float16"]
    parser.add_argument("--dtype", choices=dtypes, help="of the weights (default: that of transformers)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=natural_int, default=8000, help="port, 0 for a free one (default: 8000)")
    parser.add_argument(
        "--served-model-name", type=not_empty, metavar="NAME", help="what requests call the model (default: its own)"
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help=f"API keys, one a line, one of which requests must bring; {API_KEY} in the environment is another",
    )

    batches = parser.add_argument_group("batches")
    _setting(batches, "max_batch_size", positive_int, "most questions answered together (default: 16)")
    _setting(batches, "max_wait_ms", non_negative_number, "most milliseconds to wait for others (default: 10)")
    _setting(batches, "image_workers", positive_int, "threads that decode images (default: one a core, 4 at most)")
    _setting(batches, "image_cache_bytes", natural_int, "for encoded images; 0 for none (default: 256 MiB)")

    limits = parser.add_argument_group("limits")
    _setting(limits, "max_queue", positive_int, "most requests that wait; others get 429 (default: 128)")
    _setting(limits, "max_request_bytes", positive_int, "most bytes of a request (default: 32 MiB)")
    _setting(limits, "max_image_bytes", positive_int, "most bytes of an image file (default: 20 MiB)")
    _setting(limits, "max_image_pixels", positive_int, "most pixels of an image (default: 33,554,432)")
    _setting(limits, "max_prompt_tokens", positive_int, "most tokens of a prompt (default: the processor's limit)")
    _setting(limits, "max_answer_tokens", positive_int, "most tokens of an answer (default: 256)")
    _setting(limits, "fetch_timeout", positive_number, "most seconds for fetching an image (default: 10)")
    _setting(limits, "request_timeout", positive_number, "most seconds for a request (default: 120)")
    _setting(limits, "shutdown_timeout", positive_number, "most seconds for stopping (default: 60)")
    limits.add_argument(
        "--allow-private-addresses",
        action="store_true",
        default=None,
        help="fetch images from addresses of this machine and its network, too",
    )
    parser.set_defaults(run=run, extra="serve")


def _setting(group: Any, name: str, kind: Any, text: str) -> None:
    group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=text)


def run(args: argparse.Namespace) -> int:
    """
    Serve until a signal; 1 where accepted requests were not answered in time.

    Raises:
        ValueError, OSError, ImportError: with one line to show to the user.
    """
    from modeling_lion.extras_lion import needs_extra

    with needs_extra("serve", "lion serve", "fastapi", "prometheus_client", "uvicorn"):
        from lion_multimodal.serving.app import create_app
        from lion_multimodal.serving.server import address_of, bind, serve
        from lion_multimodal.serving.settings import ServerSettings
    if args.adapter:
        with needs_extra("train", "lion serve --adapter", "peft"):
            pass
    if args.port > 65535:
        raise ValueError(f"--port must be 0 to 65535, got {args.port}")

    given = {name: getattr(args, name, None) for name in ServerSettings.__dataclass_fields__}
    limits = {name: value for name, value in given.items() if value is not None}
    limits["model_name"] = args.served_model_name or _name(args.adapter or args.model)
    settings = ServerSettings(**{**limits, "api_keys": api_keys(args.api_key_file)})
    bound = bind(args.host, args.port)
    with bound:
        from lion_multimodal.engine import LionEngine

        engine = LionEngine.from_pretrained(args.model, adapter=args.adapter, device=args.device, dtype=args.dtype)
        url = address_of(bound)
        if not settings.api_keys and not _is_loopback(bound.getsockname()[0]):
            print(f"lion: warning: anybody who reaches {url} may ask: there is no --api-key-file", file=sys.stderr)

        def announce() -> None:
            print(f"lion: {settings.model_name} is served at {url}/v1 ({engine.device}); Ctrl-C stops it", flush=True)

        lost = serve(create_app(engine, settings), bound, announce, access_log=args.verbose)
    if lost:
        print(f"lion: error: {lost} requests were not answered within --shutdown-timeout", file=sys.stderr)
    return 1 if lost else 0


def api_keys(file: str | None) -> tuple[str, ...]:
    """
    The keys of a file, one a line, and that of the environment.

    Raises:
        ValueError, OSError: the file cannot be read, or holds none.
    """
    keys = [key.strip() for key in (os.environ.get(API_KEY, ""),) if key.strip()]
    if file is not None:
        try:
            lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError:
            raise ValueError(f"--api-key-file must be text in UTF-8: {file}") from None
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ValueError(f"--api-key-file must hold a key a line, and {file} holds none")
        keys += found
    return tuple(keys)


def _name(source: str | None) -> str:
    """What a checkpoint is called: a repo's name on the Hub, a directory's own name."""
    if source is None:
        return "nano"
    return Path(source).resolve().name if Path(source).exists() else source


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
