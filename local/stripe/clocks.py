"""Test clocks: their customers live in a time of their own, which only `advance` moves."""

from local.stripe.account import Account
from local.stripe.api import resource, route
from local.stripe.errors import ApiError
from local.stripe.periods import DAY, after
from local.stripe.store import Object

KIND = "test_helpers.test_clock"
LIVES_DAYS = 30

resource("test_helpers/test_clocks", KIND, filters="")


@route("POST /v1/test_helpers/test_clocks", "frozen_time!:time name")
def create_clock(account: Account, values: Object, _place: dict[str, str]) -> Object:
    return account.new(
        KIND, "test_helpers.test_clock.created", **values, deletes_after=account.now() + LIVES_DAYS * DAY
    )


@route("POST /v1/test_helpers/test_clocks/{id}/advance", "frozen_time!:time")
def advance_clock(account: Account, values: Object, place: dict[str, str]) -> Object:
    """The response says `advancing`; by the next request everything has happened and the clock is ready."""
    clock, until = account.get(KIND, place["id"]), values["frozen_time"]
    if until <= clock["frozen_time"]:
        raise ApiError("The new frozen time must be after the test clock's current frozen time.", param="frozen_time")
    if until > (furthest := _furthest(account, clock)):
        raise ApiError(
            "Cannot advance the test clock by more than two intervals of its shortest subscription, or two years"
            " without"
            f" one: the latest possible time is {furthest}.",
            param="frozen_time",
        )
    advancing = {"status": "advancing", "status_details": {"advancing": {"target_frozen_time": until}}}
    account.announce("test_helpers.test_clock.advancing", {**clock, **advancing})
    account.catch_up(clock["id"], until)
    account.change(clock, None, frozen_time=until)
    account.announce("test_helpers.test_clock.ready", clock)
    return {**clock, **advancing, "_stale": True}


def _furthest(account: Account, clock: Object) -> int:
    now = int(clock["frozen_time"])
    limits = [after(now, {"interval": "year", "interval_count": 2}, now)]
    for subscription in account.store.all("subscription"):
        if subscription.get("_clock") == clock["id"] and not subscription["ended_at"]:
            recurring = subscription["items"]["data"][0]["price"]["recurring"]
            twice = {**recurring, "interval_count": 2 * recurring["interval_count"]}
            limits.append(after(now, twice, now))
    return min(limits)


@route("DELETE /v1/test_helpers/test_clocks/{id}")
def delete_clock(account: Account, _values: Object, place: dict[str, str]) -> Object:
    """Its customers and all that is theirs are deleted with it."""
    clock = account.get(KIND, place["id"])
    account.store.forget(clock["id"])
    account.change(clock, None, deleted=True)
    account.announce("test_helpers.test_clock.deleted", clock)
    return {"id": clock["id"], "object": KIND, "deleted": True}
