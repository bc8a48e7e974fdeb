"""Try a file of other origin in a process of its own before this one loads it.

ONNX Runtime parses and folds a graph while it loads it, and was seen to end the process on a damaged file, and to work
on another for minutes. No check of ours can foresee either, so the first load and the first run of one image happen
where neither does harm. It costs a second, and only for files that carry no seal of ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .errors import ArtifactError

__all__ = ["try_apart"]

#: Seconds, and bytes of memory beyond ten times the file's, that a file of other origin may take.
SECONDS, BYTES = 60, 16 << 30
REFUSED = 3


def try_apart(path: Path, name: str, image: tuple[int, int, int]) -> None:
    """Load a file in ONNX Runtime and run one image, in another process.

    Args:
        name: of its input.
        image: (channels, height, width).

    Raises:
        ArtifactError: that process crashed, took too long or too much memory, or the runtime refused the file.
    """
    memory = BYTES + 10 * sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    # -P: nothing is imported from the current folder, whatever lies there.
    command = [
        sys.executable,
        "-P",
        "-m",
        "illama_deploy.onnx_trial",
        str(path.absolute()),
        name,
        *map(str, image),
        str(memory),
    ]
    found = str(Path(__file__).parents[1])
    paths = os.pathsep.join((found, *filter(None, [os.environ.get("PYTHONPATH")])))
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            env={**os.environ, "PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        raise ArtifactError(
            f"ONNX Runtime did not load it and run one image in {SECONDS} s.",
            where=path,
            hint="It is no file of illama-deploy; give one that 'illama-deploy export' wrote.",
        ) from None
    if done.returncode == 0:
        return
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    why = said[-1] if done.returncode == REFUSED and said else f"its process ended with {done.returncode}"
    raise ArtifactError(
        f"ONNX Runtime cannot load it: {why[:300]}",
        where=path,
        hint="It may be cut short or need a newer runtime; give a file that 'illama-deploy export' wrote.",
    )


def _main(path: str, name: str, channels: str, height: str, width: str, memory: str) -> int:
    import numpy as np
    import onnxruntime as ort

    from .onnx_session import session_options

    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        allowed = int(memory) if hard == resource.RLIM_INFINITY else min(int(memory), hard)
        resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    try:
        options = session_options()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session.run(None, {name: np.zeros((1, int(channels), int(height), int(width)), np.float32)})
    except Exception as error:  # its exceptions share no base of their own
        print((str(error).splitlines() or [type(error).__name__])[0], file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
