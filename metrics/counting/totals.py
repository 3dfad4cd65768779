"""Names of the totals in the table `metric_totals`, and the bucket bounds of Prometheus's histogram of durations."""

from functools import lru_cache

from metrics.counting import histogram

REQUESTS_OK, REQUESTS_FAILED, REQUESTS_CANCELLED = "requests_ok", "requests_failed", "requests_cancelled"
INPUT_TOKENS, OUTPUT_TOKENS = "input_tokens", "output_tokens"
UNRECORDED, DAMAGED = "unrecorded", "damaged_bytes"
REJECTED = "rejected:"  # followed by the error code of the refusal
# Number of successful requests per bucket of PROMETHEUS_BUCKETS, and the sum of their durations in µs.
DURATIONS_BELOW, DURATIONS_US = "answers_below_us:", "answers_us"
# Value of a total at the adoption of llmlb's database, and the share of adopted rows that day roll-ups contain since.
# These two allow to compute a total again from the roll-ups.
ADOPTED, PRUNED_ADOPTED = "adopted:", "pruned_adopted:"

# Bucket n counts durations below 2**n µs: from 8 ms to 9 min. The last bucket also counts all longer ones (+Inf).
# The histograms of the roll-ups are exact at powers of two.
PROMETHEUS_BUCKETS = range(13, 30)


def duration_total(bucket: int) -> str:
    """Return the name of the total that counts one of PROMETHEUS_BUCKETS."""
    return f"{DURATIONS_BELOW}{bucket}"


@lru_cache(maxsize=1024)
def duration_total_of(index: int) -> str:
    """Return the name of the total that counts the durations of a histogram bucket (see metrics.counting.histogram).

    A power of two is always the first value of its histogram bucket, so no such bucket extends over a bound.
    """
    power = histogram.bounds(index)[0].bit_length()
    return duration_total(min(PROMETHEUS_BUCKETS[-1], max(PROMETHEUS_BUCKETS[0], power)))
