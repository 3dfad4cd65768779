from gateway.routing.retry_budget import MAX_BALANCE, SHARE, RetryBudget


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def used_up(clock):
    budget = RetryBudget(clock)
    while budget.withdraw():
        pass
    return budget


def test_the_budget_begins_with_a_hundred_retries():
    budget = RetryBudget(Clock())
    assert [budget.withdraw() for _ in range(101)] == [True] * 100 + [False]


def test_five_requests_add_one_retry():
    budget = used_up(Clock())
    for _ in range(5):
        budget.balance += SHARE
    assert [budget.withdraw(), budget.withdraw()] == [True, False]


def test_retries_add_at_most_a_fifth_to_the_requests():
    budget = used_up(Clock())
    retries = 0
    for _ in range(1000):
        budget.balance += SHARE
        retries += budget.withdraw()
    assert retries == 200


def test_the_budget_grows_with_time():
    clock = Clock()
    budget = used_up(clock)
    clock.now += 0.125
    assert [budget.withdraw(), budget.withdraw()] == [True, False]


def test_the_budget_has_a_maximum():
    clock = Clock()
    budget = RetryBudget(clock)
    clock.now += 1e6
    budget.withdraw()
    assert budget.balance == MAX_BALANCE - 1
