"""Commands that keep running: the Prefect server with or without a worker, and the Dask workers of a scheduler."""
# ruff: noqa: PLC0415 -- imports of a command happen when it runs, so that help is there at once

import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.console import command, quiet, say, say_pairs

_SCHEDULER_STARTS_WITHIN_S = 30  # both may be started at once, by the same service manager

if TYPE_CHECKING:
    from flows.servers.server import Server


def add_server_commands(commands: typer.Typer) -> None:
    """Register the commands of this file."""
    for each in (server, worker):
        commands.command()(each)


def server(
    port: Annotated[int, typer.Option(help="Port of the UI; a free one is taken if it is in use.")] = 4200,
    deployments: Annotated[
        bool, typer.Option("--deployments", help="Also register prefect.yaml's deployments, and run a worker for them.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop a server that --keep-server left running.")] = False,
) -> None:
    """Show the Prefect UI with the history of local runs, until ctrl-C.

    With --deployments it is all that nightly runs need on one machine: server, scheduler, work pool and worker. The
    runs have the environment of this command (AWS_*, AURA_CLUSTER, AURA_WEBHOOK_URL). 'make serve' does the same.
    """
    quiet(verbose=deployments)
    from flows.servers.server import port_or_free, prefect_server, stop_kept_server

    if stop:
        say("Stopped." if stop_kept_server() else "No server was left running.")
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a service manager's stop is as orderly as ctrl-C
        signal.signal(number, signal.default_int_handler)
    if deployments:
        from flows.servers.serving import require_definition

        require_definition()
        say("Starting a Prefect server ...")
    with prefect_server(port=port_or_free(port), schedules=deployments) as running:
        try:
            if deployments:
                _serve(running)
            else:
                _show(running)
        except KeyboardInterrupt:
            say("Stopping ...")
    if deployments or running.pid is not None:
        say("Stopped.")


def worker(
    scheduler: Annotated[str, typer.Argument(help="Address of a Dask scheduler, such as tcp://host:8786.")],
    workers: Annotated[int, typer.Option(min=1, help="Worker processes; each has two shards in hand.")] = 1,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Each has a GPU to itself: a shard is then only given to such workers.")
    ] = False,
) -> None:
    """Work for a Dask scheduler, with the thread and allocator settings that make inference fast.

    Start the scheduler with 'dask scheduler', give its address to a run by --cluster or AURA_CLUSTER, and run this on
    each machine that shall work, once for each GPU. A worker computes one shard, while it reads the next and stores
    the last: two Dask threads, which is not how many cores it uses.

    Example: CUDA_VISIBLE_DEVICES=1 aura worker tcp://10.0.0.1:8786 --gpu
    """
    from flows.cluster.runner import (
        GPU,
        PRELOADS,
        SHARDS_IN_HAND,
        scheduler_address,
        usable_cpus,
        worker_environment,
        workers_of,
    )

    scheduler_address(scheduler)
    say(f"Looking for the scheduler at {scheduler} ...")
    workers_of(scheduler, _SCHEDULER_STARTS_WITHIN_S)
    options = ["--nworkers", str(workers), "--nthreads", str(SHARDS_IN_HAND), "--memory-limit", "0"]
    options += [word for module in PRELOADS for word in ("--preload", module)]
    if gpu:
        options += ["--resources", f"{GPU}=1"]
    threads = max(1, usable_cpus() // workers)
    environment = os.environ | worker_environment(threads)
    # malloc and OpenMP read their settings once, so that a new program has to begin with them
    os.execve(sys.executable, [sys.executable, "-m", "dask", "worker", scheduler, *options], environment)  # noqa: S606


def _show(running: "Server") -> None:
    say(f"Prefect UI: {running.ui_url}/runs")
    if running.pid is None:
        say("It runs already, and is not stopped by this command.")
        return
    say("Ctrl-C stops it.")
    running.wait()


def _serve(running: "Server") -> None:
    from flows.servers.serving import POOL, deploy, make_pool, watch, worker

    say("Registering the deployments ...")
    make_pool()
    names = deploy()
    with worker(running) as process:
        say_pairs(
            {
                "UI": f"{running.ui_url}/deployments",
                "API": f"export PREFECT_API_URL={running.api_url}",
                "deployed": ", ".join(names),
                "worker": f"of the work pool {POOL}, process {process.pid}",
                "next": "change prefect.yaml to your corpus, then in another shell: prefect deploy --all",
                "then": "prefect deployment run factory/nightly --watch; schedules are switched on in the UI",
                "without": f"any of this, by hand: {command()} synthesize CORPUS DATASET",
            }
        )
        say("Ctrl-C stops the worker, its runs and the server; a run goes on where it was the next time.")
        watch(running, process)
