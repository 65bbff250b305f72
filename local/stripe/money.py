"""Amounts: currencies with their minor units and smallest charges, and how a share of an amount is rounded."""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from local.stripe.errors import ApiError
from local.stripe.store import Object

_ZERO = "bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf"
_THREE = "bhd jod kwd omr tnd"
_OTHERS = (
    "usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad cdf chf "
    "cny cop crc cve czk dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl htg huf idr ils inr "
    "isk jmd kes kgs khr kyd kzt lak lbp lkr lrd lsl mad mdl mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn "
    "nio nok npr nzd pab pen pgk php pkr pln qar ron rsd rub sar sbd scr sek sgd shp sle sos srd std szl thb "
    "tjs top try ttd twd tzs uah uyu uzs wst xcd xcg yer zar zmw"  # codespell:ignore zar
)
ZERO_DECIMAL = frozenset(_ZERO.split())
THREE_DECIMAL = frozenset(_THREE.split())
CURRENCIES = ZERO_DECIMAL | THREE_DECIMAL | frozenset(_OTHERS.split())
# The smallest amount Stripe charges, in minor units; https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts
SMALLEST = {"gbp": 30, "jpy": 50, "hkd": 400, "mxn": 1000, "myr": 200, "thb": 1000, "aed": 200, "czk": 1500, "dkk": 250,
            "huf": 17_500, "nok": 300, "sek": 300, "pln": 200, "ron": 200, "bgn": 100,
            "kwd": 500, "krw": 500}  # fmt: skip
SMALLEST_USUAL = 50


def smallest(currency: str) -> int:
    return SMALLEST.get(currency, SMALLEST_USUAL)


def decimals(currency: str) -> int:
    return 0 if currency in ZERO_DECIMAL else 3 if currency in THREE_DECIMAL else 2


def check_last_digit(amount: int | Decimal, currency: str, param: str) -> None:
    """Stripe takes three-decimal currencies in hundredths: the last digit must be 0."""
    if currency in THREE_DECIMAL and amount % 10:
        raise ApiError(
            f"Invalid integer: {amount}; the last digit of an amount in {currency.upper()} must be 0",
            code="parameter_invalid_integer",
            param=param,
        )


def formatted(amount: int, currency: str) -> str:
    """`1,234.50 USD`, with as many decimals as the currency has."""
    places = decimals(currency)
    return f"{Decimal(amount).scaleb(-places):,.{places}f} {currency.upper()}"


def rounded(amount: Fraction | Decimal) -> int:
    """To the nearest minor unit, halves away from zero."""
    exact = Decimal(amount.numerator) / Decimal(amount.denominator) if isinstance(amount, Fraction) else amount
    return int(exact.quantize(Decimal(1), ROUND_HALF_UP))


def amount_of(price: Object, quantity: int) -> int:
    return rounded(Decimal(price["unit_amount_decimal"]) * quantity)


def share(amount: int, part: int, whole: int) -> int:
    return rounded(Fraction(amount * part, whole)) if whole else 0


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """An amount in shares that add up to it exactly."""
    shares, given, seen, whole = [], 0, 0, sum(weights)
    for weight in weights:
        seen += weight
        until = share(amount, seen, whole)
        shares.append(until - given)
        given = until
    return shares
