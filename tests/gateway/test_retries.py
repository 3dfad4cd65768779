from gateway.retries import MAX_BALANCE, SHARE, RetryBudget


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def used_up(clock):
    budget = RetryBudget(clock)
    while budget.withdraw():
        pass
    return budget


def test_a_hundred_retries_are_there_at_the_start():
    budget = RetryBudget(Clock())
    assert [budget.withdraw() for _ in range(101)] == [True] * 100 + [False]


def test_five_requests_pay_for_one_retry():
    budget = used_up(Clock())
    for _ in range(5):
        budget.balance += SHARE
    assert [budget.withdraw(), budget.withdraw()] == [True, False]


def test_a_failing_fleet_is_asked_a_fifth_more():
    budget = used_up(Clock())
    retries = 0
    for _ in range(1000):
        budget.balance += SHARE
        retries += budget.withdraw()
    assert retries == 200


def test_some_come_back_with_time():
    clock = Clock()
    budget = used_up(clock)
    clock.now += 0.125
    assert [budget.withdraw(), budget.withdraw()] == [True, False]


def test_they_are_not_saved_up_for_ever():
    clock = Clock()
    budget = RetryBudget(clock)
    clock.now += 1e6
    budget.withdraw()
    assert budget.balance == MAX_BALANCE - 1
