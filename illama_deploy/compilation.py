"""`torch.compile` that never goes on uncompiled without a word, and says in words why it cannot compile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import RuntimeUnavailableError, parameter

__all__ = ["RECOMPILE_LIMIT", "compiling"]

#: How many graphs of one function torch makes before it goes on uncompiled. Its default, 8, counts over the whole
#: process: each batch size of a network is one graph, and so is each drop path rate of a block.
RECOMPILE_LIMIT = 256


@contextmanager
def compiling(*, freezing: bool = False) -> Iterator[None]:
    """A context in which to call what `torch.compile` returned, at least the first time: then it compiles.

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
