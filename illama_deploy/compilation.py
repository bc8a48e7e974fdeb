"""`torch.compile` without its silences: never on uncompiled where it was asked for, and its faults in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import RuntimeUnavailableError, parameter

__all__ = ["RECOMPILE_LIMIT", "compiling"]

#: Graphs of one function before torch goes on uncompiled. Its own 8 are for the whole process: a network of each batch
#: size, a block of each drop path rate counts.
RECOMPILE_LIMIT = 256


@contextmanager
def compiling(*, freezing: bool = False) -> Iterator[None]:
    """Call what is compiled in here, at least its first time.

    Args:
        freezing: take weights for constants and compute once what follows from them; only without gradients, and not
            in inference mode. As an option of `torch.compile` it comes too late to have an effect (torch 2.14).

    Raises:
        RuntimeUnavailableError: it cannot be compiled here.
    """
    # Half a second to import, and most commands compile nothing.
    import torch._dynamo
    import torch._inductor.config
    from torch._inductor.exc import InductorError

    try:
        with (
            torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT),
            torch._inductor.config.patch(freezing=freezing),
        ):
            yield
    except InductorError as error:
        raise RuntimeUnavailableError(
            f"torch {torch.__version__} cannot compile the network: {str(error).strip().splitlines()[0]}",
            hint="It needs a C++ compiler (apt install g++, or CXX=PATH). Nothing else does: leave out "
            f"{parameter('compile')}, or "
            f"{parameter(backend='torch')}.",
        ) from error
