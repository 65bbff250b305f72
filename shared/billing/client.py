"""The client of Stripe, one per process, and the responses to its errors.

Importing it costs as much as everything else together; `Call.stripe` does it when a function first needs it.
"""

import stripe

from shared.errors import INTERNAL, ApiError, ErrorResponse, register
from shared.settings import Settings

# For one attempt. A caller waits for all of them, so there are few; each carries the same Idempotency-Key.
ATTEMPT_SECONDS = 8.0
MORE_ATTEMPTS = 2

PAUSE = {"retry-after": "5"}
UNAVAILABLE = ErrorResponse(
    503, "stripe_unavailable", "Stripe cannot be reached", hint="Try again in a moment.", headers=PAUSE
)
BUSY = ErrorResponse(503, "stripe_busy", "Stripe is busy", hint="Try again in a moment.", headers=PAUSE)
IN_USE = 409  # another request with this Idempotency-Key is in progress
MEANING: dict[type[stripe.StripeError], ErrorResponse] = {
    stripe.RateLimitError: BUSY,
    stripe.APIConnectionError: UNAVAILABLE,
    # Mistakes of Strive.
    stripe.AuthenticationError: INTERNAL,
    stripe.PermissionError: INTERNAL,
    stripe.IdempotencyError: INTERNAL,
}


class Stripe(stripe.StripeClient):
    """Stripe's own client, used as `await call.stripe().v1.customers.create_async(…)`.

    A call that creates takes `{"idempotency_key": …}`, derived from a row that is committed before: a retry after a
    crash gets what was created the first time.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.stripe_secret_key is None:
            raise ApiError(503, "billing_off", "Stripe is not configured", hint="Set STRIPE_SECRET_KEY.")
        secure = settings.stripe_api_base.startswith("https:")
        self._http = stripe.HTTPXClient(timeout=ATTEMPT_SECONDS, verify_ssl_certs=secure)
        super().__init__(
            settings.stripe_secret_key,
            base_addresses={"api": settings.stripe_api_base},
            max_network_retries=MORE_ATTEMPTS,
            http_client=self._http,
        )

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the library leaves it untyped


def _from_error(error: stripe.StripeError) -> ErrorResponse:
    """The response to an error that the function did not handle.

    Only messages about cards are meant for people; the others may contain identifiers and parts of keys.
    """
    if isinstance(error, stripe.CardError):
        declined = getattr(error.error, "decline_code", None)
        message = error.user_message or "The card was declined"
        return ErrorResponse(402, error.code or "card_declined", message, declined, "Try another card.")
    if isinstance(error, stripe.InvalidRequestError):
        found = {"code": error.code, "param": error.param}
        return ErrorResponse(422, "stripe_refused", "Stripe does not accept this", found)
    return MEANING.get(type(error), BUSY if error.http_status == IN_USE else UNAVAILABLE)


register(stripe.StripeError, _from_error)
