"""What a compression did in a run, in words."""

from __future__ import annotations

from .compression import RunLog, SiteRecord
from .placement import Site


def summary(log: RunLog) -> str:
    """One line: layers compressed of those present, and the floating point operations saved."""
    if not log.sites:
        return "BiGain: no network call was seen; connect the report behind the sampler."
    if not log.sites_compressed:
        return f"BiGain CHANGED NOTHING: 0 of {len(log.sites)} self-attention layers compressed."
    before = sum(record.flops_before for record in log.sites.values())
    after = before - log.flops_saved
    return (
        f"BiGain: {log.sites_compressed} of {len(log.sites)} self-attention layers compressed, "
        f"{before / 1e9:.4g} -> {after / 1e9:.4g} GFLOP in them per sample of the run "
        f"({1 - after / before:.0%} saved)."
    )


def report(log: RunLog) -> str:
    """The summary, a line per compressed layer, and what was left alone and why."""
    lines = [summary(log)]
    lines += [_site_line(site, record) for site, record in log.sites.items() if record.compressed]
    lines += [f"left alone {count} times: {reason}" for reason, count in log.left_alone.items()]
    return "\n".join(lines)


def _site_line(site: Site, record: SiteRecord) -> str:
    return (
        f"layer {site.number} ({site.stage}, level {site.level}): {record.method}, "
        f"{record.tokens} tokens -> {record.query_tokens} queries, {record.context_tokens} keys, "
        f"in {record.compressed} of {record.calls} calls"
    )
