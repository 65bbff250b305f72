"""The test cards, numbers and names as in https://docs.stripe.com/testing, and what each does."""

from dataclasses import dataclass

DECLINED = "Your card was declined."
INSUFFICIENT = "Your card has insufficient funds."
EXPIRED = "Your card has expired."
INCORRECT = "Your card's security code is incorrect."
FAILED = "An error occurred while processing your card. Try again in a little bit."
REPEATED = "Your card was declined for making repeated attempts too frequently or exceeding its amount limit."


@dataclass(frozen=True)
class Card:
    """`code` and `decline`: why a charge is declined. `early`: declined already when it is attached or set up."""

    token: str
    brand: str = "visa"
    code: str | None = None
    decline: str | None = None
    message: str = DECLINED
    early: bool = True
    authentication: str = ""  # "always", or "once": not again after a successful setup
    disputed: str = ""  # the reason
    refund: str = ""  # "pending" or "failing"
    country: str = "US"
    funding: str = "credit"


def _declined(token: str, decline: str, message: str = DECLINED, code: str = "card_declined") -> Card:
    return Card(token, code=code, decline=decline, message=message)


CARDS = {
    # Successful
    "4242424242424242": Card("visa"),
    "4000056655665556": Card("visa_debit", funding="debit"),
    "5555555555554444": Card("mastercard", brand="mastercard"),
    "5200828282828210": Card("mastercard_debit", brand="mastercard", funding="debit"),
    "378282246310005": Card("amex", brand="amex"),
    "6011111111111117": Card("discover", brand="discover"),
    "3056930009020004": Card("diners", brand="diners"),
    "3566002020360505": Card("jcb", brand="jcb"),
    "4000002760000016": Card("de", country="DE"),
    "4000008260000000": Card("gb", country="GB"),
    "4000003920000003": Card("jp", country="JP"),
    # Declined
    "4000000000000002": _declined("visa_chargeDeclined", "generic_decline"),
    "4000000000009995": _declined("visa_chargeDeclinedInsufficientFunds", "insufficient_funds", INSUFFICIENT),
    "4000000000009987": _declined("visa_chargeDeclinedLostCard", "lost_card"),
    "4000000000009979": _declined("visa_chargeDeclinedStolenCard", "stolen_card"),
    "4000000000000069": _declined("chargeDeclinedExpiredCard", "expired_card", EXPIRED, "expired_card"),
    "4000000000000127": _declined("chargeDeclinedIncorrectCvc", "incorrect_cvc", INCORRECT, "incorrect_cvc"),
    "4000000000000119": _declined("chargeDeclinedProcessingError", "processing_error", FAILED, "processing_error"),
    "4000000000006975": _declined("visa_chargeDeclinedVelocityLimitExceeded", "card_velocity_exceeded", REPEATED),
    "4100000000000019": _declined("radarBlock", "fraudulent"),
    "4000000000000341": Card("chargeCustomerFail", code="card_declined", decline="generic_decline", early=False),
    # 3-D Secure
    "4000000000003220": Card("threeDSecure2Required", authentication="once"),
    "4000002500003155": Card("authenticationRequiredOnSetup", authentication="once"),
    "4000002760003184": Card("authenticationRequired", authentication="always"),
    "4000008260003178": Card("authenticationRequiredChargeDeclinedInsufficientFunds", authentication="once",
                             early=False, code="card_declined", decline="insufficient_funds", message=INSUFFICIENT),
    "4000008400001629": Card("threeDSecureRequiredChargeDeclined", authentication="always", early=False,
                             code="card_declined", decline="generic_decline"),
    # Disputes and refunds
    "4000000000000259": Card("createDispute", disputed="fraudulent"),
    "4000000000002685": Card("createDisputeProductNotReceived", disputed="product_not_received"),
    "4000000000001976": Card("createDisputeInquiry", disputed="inquiry"),
    "4000000000007726": Card("pendingRefund", refund="pending"),
    "4000000000005126": Card("refundFail", refund="failing"),
}  # fmt: skip
TOKENS = {f"pm_card_{card.token}": number for number, card in CARDS.items()}
