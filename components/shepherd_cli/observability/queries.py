"""The few forms that almost all queries have; each looks at the chosen processes only."""

from __future__ import annotations

from shepherd_cli.observability.dashboards import Query


def now(name: str, *, by: str = "instance", **labels: str) -> Query:
    """A gauge, summed."""
    return Query(f"sum by ({by}) ({_chosen(name, labels)})", f"{{{{{by}}}}}")


def rate(name: str, *, by: str = "instance", **labels: str) -> Query:
    """What a counter gains a second."""
    return Query(f"sum by ({by}) ({_rate(name, labels)})", f"{{{{{by}}}}}")


def rates(*names: str) -> tuple[Query, ...]:
    """What several counters gain a second, all processes together, each under its name."""
    return tuple(Query(f"sum({_rate(name, {})})", _spoken(name)) for name in names)


def quantiles(histogram: str) -> tuple[Query, ...]:
    """Median, 95th and 99th percentile over all chosen processes."""
    buckets = f"sum by (le) ({_rate(histogram + '_bucket', {})})"
    return tuple(
        Query(f"histogram_quantile({share}, {buckets})", f"p{round(share * 100)}")
        for share in (0.5, 0.95, 0.99)
    )


def share(part: str, whole: str, legend: str) -> Query:
    """Rate of one counter as a part of another's; 0 while there is nothing."""
    return Query(
        f"sum({_rate(part, {})}) / clamp_min(sum({_rate(whole, {})}), 1e-9)",
        legend,
    )


def _spoken(name: str) -> str:
    words = name.removeprefix("shepherd_").removesuffix("_total").split("_")[1:]
    return " ".join(words)


def _chosen(name: str, labels: dict[str, str]) -> str:
    matches = [f'{key}="{value}"' for key, value in labels.items()]
    inside = ", ".join(['instance=~"$instance"', *matches])
    return f"{name}{{{inside}}}"


def _rate(name: str, labels: dict[str, str]) -> str:
    return f"rate({_chosen(name, labels)}[$__rate_interval])"
