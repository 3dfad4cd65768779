"""Fit of the four parameters of a duration to samples: weighted least squares, robust against outliers.

The model is that of gateway.registry.schema.Speeds. A sample with a duration of d seconds is a row

    d = setup + read * x1 + write * x2 + share * x3

with x1 = prompt tokens that were read before or while it ran, x2 = output tokens, x3 = output tokens * mean requests in
flight: the duration of gateway.routing.expected_time, which also predicts it. A stream that met an idle endpoint is one
more row: its time to first token, with x2 = x3 = 1. Its error counts
relative to the geometric mean of both times: some servers send the first token at once, long before others follow.

Rows weigh 1 / prediction**2, since errors are relative (1 / d**2 would favour rows that happened to be short), less for
older samples, and less beyond an error of 30 % (Huber, "Robust estimation of a location parameter", 1964). The priors
are rows too, so that few samples suffice. A fit depends on its arguments only, never on an earlier fit, and all sums
have one order: the same samples give the same bits. It has no numpy, which would cost every process its memory.
"""

import math
from collections.abc import Iterable, Sequence

from gateway.registry.schema import Lengths, Speeds
from gateway.routing.adaptive import RATIOS, UNKNOWN_RATIOS, UNMEASURED
from gateway.routing.expected_time import Parameters, parameters_of
from metrics.learning.samples import UNKNOWN, WINDOW, LengthSample, LoadSample, SpeedSample

ROUNDS = 3  # after a first one that weighs rows by their durations
HUBER = 0.3
FADING_SAMPLES = 45.0  # so many samples ago, the weight is 1/e
SHORTEST = 1e-4  # seconds; shorter predictions would weigh too much
FASTEST_WRITE = 1e-5  # seconds for a token; it is never 0, which means that nothing was measured
# Weights of the priors. A row of a sample weighs up to 1.
SETUP_PRIOR, WRITE_PRIOR, SHARE_PRIOR, READ_PRIOR = 0.1, 0.05, 0.1, 0.03
PRIOR_SAMPLES = 16  # with so many samples, the priors weigh a quarter; then ever less, so that they leave no bias
AGES = 4
LEAST_ALPHA = 0.02  # of the mean lengths
KEPT_LOADS = 9

_FADING = [math.exp(-rank / FADING_SAMPLES) for rank in range(WINDOW)]


DEFAULT_PRIOR = parameters_of(UNMEASURED)
_LEAST = Parameters(0.0, 0.0, FASTEST_WRITE, 0.0)
# Weight by age, prompt tokens, output tokens, mean requests in flight, seconds, until the first token.
_Row = tuple[float, float, float, float, float, bool]
_Equations = list[list[float]]  # four rows of four coefficients and the right side


def fit(
    samples: Sequence[SpeedSample],
    engine: str,
    prior: Parameters = DEFAULT_PRIOR,
    weights: Sequence[float] = _FADING,
) -> Parameters:
    """Return the parameters that fit sorted samples of one endpoint, model and kind best.

    `engine`: the kind of the inference server. `prior`: what is expected of an endpoint without samples. `weights`:
    those of the last samples, the latest first; older ones do not count.
    """
    samples = samples[-len(weights) :]
    rows = _rows(samples, weights)
    fitted = prior
    trust = (PRIOR_SAMPLES / (PRIOR_SAMPLES + len(samples))) ** 2
    for number in range(1 + ROUNDS):
        equations = _prior_equations(prior, fitted.write, engine, trust)
        _add_rows(equations, rows, fitted if number else None)
        fitted = _solve(equations)
    return fitted


def _rows(samples: Sequence[SpeedSample], weights: Sequence[float]) -> list[_Row]:
    rows: list[_Row] = []
    for weight, sample in zip(weights, reversed(samples), strict=False):
        output = float(sample.output)
        seconds = max(sample.duration_us / 1e6, SHORTEST)
        beside = max(1.0, sample.shared_us / sample.duration_us) if sample.duration_us else 1.0
        rows.append((weight, float(sample.read + sample.read_meanwhile), output, beside, seconds, False))
        if sample.first_us > 0 and output:
            rows.append((weight, float(sample.read), 1.0, 1.0, sample.first_us / 1e6, True))
    return rows


def _prior_equations(prior: Parameters, write: float, engine: str, trust: float) -> _Equations:
    """Return the normal equations of the priors, each relative to what it expects, multiplied by `trust`.

    A setup is small beside a duration, so that its error is relative to the time of a token too.
    """
    share_ratio, read_ratio = RATIOS.get(engine, UNKNOWN_RATIOS)
    setup_weight = trust * SETUP_PRIOR / (prior.setup + prior.write) ** 2
    write_weight = trust * WRITE_PRIOR / prior.write**2
    share_weight = trust * SHARE_PRIOR / (share_ratio * write) ** 2  # of share - share_ratio * write = 0
    read_weight = trust * READ_PRIOR / (read_ratio * write) ** 2
    own = write_weight + share_weight * share_ratio**2 + read_weight * read_ratio**2
    return [
        [setup_weight, 0.0, 0.0, 0.0, setup_weight * prior.setup],
        [0.0, read_weight, -read_weight * read_ratio, 0.0, 0.0],
        [0.0, -read_weight * read_ratio, own, -share_weight * share_ratio, write_weight * prior.write],
        [0.0, 0.0, -share_weight * share_ratio, share_weight, 0.0],
    ]


def _add_rows(equations: _Equations, rows: Iterable[_Row], fitted: Parameters | None) -> None:
    """Add the rows of samples to the normal equations. `fitted`: the parameters so far; None: there are none."""
    s = s1 = s2 = s3 = sy = s11 = s12 = s13 = s1y = s22 = s23 = s2y = s33 = s3y = 0.0
    whole = SHORTEST
    for weight, x1, x2, beside, y, is_first in rows:
        x3 = x2 * beside
        p = y if fitted is None else fitted.duration(x1, x2, beside)
        square = p * p if p > SHORTEST else SHORTEST * SHORTEST
        if is_first:  # the row of the whole duration precedes it
            square = math.sqrt(square) * whole
        else:
            whole = math.sqrt(square)
        error = abs(y - p) / math.sqrt(square)
        w = weight / square
        if error > HUBER:
            w *= HUBER / error
        w1, w2, w3 = w * x1, w * x2, w * x3
        s += w
        s1 += w1
        s2 += w2
        s3 += w3
        sy += w * y
        s11 += w1 * x1
        s12 += w1 * x2
        s13 += w1 * x3
        s1y += w1 * y
        s22 += w2 * x2
        s23 += w2 * x3
        s2y += w2 * y
        s33 += w3 * x3
        s3y += w3 * y
    sums = [[s, s1, s2, s3, sy], [s1, s11, s12, s13, s1y], [s2, s12, s22, s23, s2y], [s3, s13, s23, s33, s3y]]
    for equation, added in zip(equations, sums, strict=True):
        for column, value in enumerate(added):
            equation[column] += value


def _solve(equations: _Equations) -> Parameters:
    """Return the solution in which no parameter is below its least value.

    A parameter that would be is held there, the least one first, and the others are solved again.
    """
    free = [0, 1, 2, 3]
    values = list(_LEAST)
    while free:
        solved = _solve_free(equations, free, values)
        for index, value in zip(free, solved, strict=True):
            values[index] = value
        below = [index for index in free if values[index] < _LEAST[index]]
        if not below:
            break
        # In units of the priors, because the parameters differ by orders of magnitude.
        worst = min(below, key=lambda index: values[index] / DEFAULT_PRIOR[index])
        for index in below:
            values[index] = _LEAST[index]
        free.remove(worst)
    return Parameters(*values)


def _solve_free(equations: _Equations, free: Sequence[int], held: Sequence[float]) -> list[float]:
    """Solve the equations of the free parameters by elimination. The priors make them positive definite."""
    fixed = [index for index in range(4) if index not in free]
    rows = []
    for index in free:
        right = equations[index][4]
        for other in fixed:
            right -= equations[index][other] * held[other]
        rows.append([*(equations[index][column] for column in free), right])
    size = len(free)
    for diagonal in range(size):
        pivot = rows[diagonal][diagonal]
        for below in rows[diagonal + 1 :]:
            factor = below[diagonal] / pivot
            for column in range(diagonal, size + 1):
                below[column] -= factor * rows[diagonal][column]
    solved = [0.0] * size
    for diagonal in reversed(range(size)):
        right = rows[diagonal][size]
        for column in range(diagonal + 1, size):
            right -= rows[diagonal][column] * solved[column]
        solved[diagonal] = right / rows[diagonal][diagonal]
    return solved


def kept(samples: Iterable[SpeedSample]) -> tuple[float, ...]:
    """Return the share of an expected prefix that really was in the cache, by age of the prefix.

    Only servers that report cached tokens tell it. It begins at 1.0, which weighs as one sample.
    """
    sums, counts = [1.0] * AGES, [1] * AGES
    for sample in samples:
        if sample.prefix > 0 and sample.cached != UNKNOWN:
            sums[sample.prefix_age] += min(1.0, sample.cached / sample.prefix)
            counts[sample.prefix_age] += 1
    return tuple([total / count for total, count in zip(sums, counts, strict=True)])


def speeds(samples: Sequence[SpeedSample], parameters: Parameters, since_us: int = 0) -> Speeds:
    """Return what is published. `since_us`: when the slow start began; earlier samples are no completions."""
    completions = sum([sample.completed_us > since_us for sample in samples])
    return Speeds(*parameters, completions, kept(samples))


def speeds_of_average(tokens_per_second: float, engine: str) -> Speeds:
    """Return speeds of an endpoint without samples, for which only tokens per second are known."""
    write = max(1.0 / tokens_per_second, FASTEST_WRITE)
    share_ratio, read_ratio = RATIOS.get(engine, UNKNOWN_RATIOS)
    return Speeds(UNMEASURED.setup, write * read_ratio, write, write * share_ratio)


def lengths(samples: Iterable[LengthSample]) -> Lengths:
    """Return mean output tokens and bytes of a prompt token of sorted samples.

    The means move by 1/n at the nth sample, and later by LEAST_ALPHA.
    """
    output = tokens = body_bytes = 0.0
    outputs = inputs = 0
    for sample in samples:
        if sample.output != UNKNOWN:
            outputs += 1
            output += max(1.0 / outputs, LEAST_ALPHA) * (sample.output - output)
        if sample.input != UNKNOWN and sample.body_bytes != UNKNOWN:
            inputs += 1
            alpha = max(1.0 / inputs, LEAST_ALPHA)
            tokens += alpha * (sample.input - tokens)
            body_bytes += alpha * (sample.body_bytes - body_bytes)
    return Lengths(output if outputs else None, body_bytes / tokens if tokens else None)


def load_seconds(samples: Iterable[LoadSample]) -> float:
    """Return how long a load takes, from the last ones. 0: there is none.

    `samples` may be those of several names of the model, in any order.
    """
    last = sorted(samples)[-KEPT_LOADS:]
    return typical_load([sample.load_us for sample in last]) / 1e6 if last else 0.0


def typical_load(times: Sequence[float]) -> float:
    """Return the lower quartile: of loads on busy endpoints, most begin late, because running requests end first."""
    return sorted(times)[len(times) // 4]
