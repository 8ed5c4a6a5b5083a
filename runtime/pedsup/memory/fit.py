"""Whether a model fits, the largest context that does, and the refusal if it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from pedsup.device.available import Available
from pedsup.engine.api import EngineConfig
from pedsup.errors import ResourceError
from pedsup.gguf_file import GGUFHeader
from pedsup.gguf_file.shape import model_shape
from pedsup.memory.estimate import IN_PROCESS, Host, MemoryEstimate, estimate
from pedsup.memory.paging import LEAST_PAGES, Paging, paging
from pedsup.messages import message
from pedsup.progress import human_bytes

Verdict = Literal["fits", "pages", "refused"]
CONTEXTS: Final = (
    512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 65536, 131072,
)  # fmt: skip
SMALL_BATCH: Final = 128
SMALLEST: Final = f"--ctx {CONTEXTS[0]} --ubatch {SMALL_BATCH}"


@dataclass(frozen=True)
class Fit:
    """An estimate against what is available."""

    verdict: Verdict
    """'fits': all in memory. 'pages': works, but weights are read again from storage for each
    token. 'refused': the system would kill the process."""
    need: MemoryEstimate
    available: Available | None
    paging: Paging | None = None
    """What running from storage costs, if the verdict is 'pages'."""


@dataclass(frozen=True)
class Room:
    """A model on a device: what a configuration of it takes, against what is available."""

    header: GGUFHeader
    available: Available | None
    """None where nothing reports it: then everything fits."""
    host: Host = IN_PROCESS

    def need(self, config: EngineConfig) -> MemoryEstimate:
        """See `memory.estimate.estimate`."""
        return estimate(self.header, config, self.host)

    def fit(self, config: EngineConfig, rate: float | None = None) -> Fit:
        """Compare; `rate` is the storage's, see `paging`, and does not change the verdict."""
        need, available = self.need(config), self.available
        if available is None or need.total <= available.bytes:
            return Fit("fits", need, available)
        cost = paging(need, available.bytes, streamed=not self.host.server, rate=rate)
        return Fit("refused" if cost is None else "pages", need, available, cost)

    def fits(self, config: EngineConfig) -> bool:
        """Whether all of it stays in memory."""
        return self.fit(config).verdict == "fits"

    def largest_context(self, config: EngineConfig, *, at_most: int | None = None) -> int | None:
        """The largest context that fits whole; None if none does.

        Asked are `CONTEXTS`, the one of `config`, and the bound.

        Args:
            at_most: the bound; None for what the model was trained for.
        """
        train = model_shape(self.header).n_ctx_train
        limit = min(train, at_most or train)
        candidates = sorted({*CONTEXTS, config.n_ctx, limit}, reverse=True)
        within = (n for n in candidates if n <= limit)
        return next((n for n in within if self.fits(replace(config, n_ctx=n))), None)

    def require(
        self, config: EngineConfig, *, allow_paging: bool = False, rate: float | None = None
    ) -> Fit:
        """The fit of a model that may be loaded.

        A model that does not fit runs from storage without being asked to if no smaller option is
        available and `rate`, the storage's bytes per second, makes it bearable; `allow_paging`
        lets it run below that. It never runs where the memory it must keep does not fit.

        Raises:
            ResourceError: it does not fit; the remedy names the next smaller option that does.
        """
        fit = self.fit(config, rate)
        if fit.verdict == "fits":
            return fit
        smaller = self._smaller_option(config)
        if fit.paging is not None and (allow_paging or (fit.paging.bearable and smaller is None)):
            return fit
        raise _too_large(self.header, fit, smaller or self._no_smaller(config, fit))

    def _no_smaller(self, config: EngineConfig, fit: Fit) -> str:
        """What remains to suggest if nothing fits whole."""
        slowly = message("")
        if fit.paging is not None:
            slowly = message(", or give --allow-paging to run this slowly")
        elif self.fit(_smallest(config)).paging is not None:
            slowly = message(
                ", or give {options} --allow-paging to run it slowly", options=SMALLEST
            )
        return message(
            "close other programs, or export a smaller type or model (Q4_0, E2B){slowly}",
            slowly=slowly,
        )

    def _smaller_option(self, config: EngineConfig) -> str | None:
        """The first of the smaller options that fits, as a command-line option."""
        options = [("", config)]
        if config.extra_buffers:
            options.append(("--extra-buffers off", replace(config, extra_buffers=False)))
        for text, smaller in options:
            context = self.largest_context(smaller, at_most=config.n_ctx)
            if context is not None:
                ctx = f"--ctx {context}" if context < config.n_ctx else ""
                return message("give {options}", options=" ".join(filter(None, (text, ctx))))
        if self.fits(_smallest(config)):
            return message("give {options}", options=SMALLEST)
        return None


def _smallest(config: EngineConfig) -> EngineConfig:
    """What `SMALLEST` means."""
    return replace(config, extra_buffers=False, n_ctx=CONTEXTS[0], n_ubatch=SMALL_BATCH)


def _too_large(header: GGUFHeader, fit: Fit, remedy: str) -> ResourceError:
    assert fit.available is not None
    need = fit.need
    cost = message("; {cost}", cost=fit.paging.text) if fit.paging is not None else ""
    return ResourceError(
        message(
            "a context of {n} tokens needs {need} of memory ({fixed} of it "
            "cannot be paged out){cost}",
            n=need.n_ctx,
            need=human_bytes(need.total),
            fixed=human_bytes(need.anonymous + LEAST_PAGES),
            cost=cost,
        ),
        where=header.path,
        wanted=message(
            "at most {size}, all that {source} leaves",
            size=human_bytes(fit.available.bytes),
            source=fit.available.source,
        ),
        remedy=remedy,
    )
