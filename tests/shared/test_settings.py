"""The environment is read once; an invalid value is reported in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.settings import Settings, SettingsError
from tests.support.serving import public_jwk

GOOD = {
    "SUPABASE_URL": "https://abc.supabase.co",
    "SUPABASE_DB_URL": "postgresql://strive_functions:hidden-word@db:6543/postgres",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_hidden_word_0",
    "SUPABASE_SECRET_KEY": "sb_secret_hidden_word_000000",
}


def test_all_settings_are_read() -> None:
    settings = Settings.read(GOOD)
    assert settings.issuer == "https://abc.supabase.co/auth/v1"
    assert settings.jwks_url == "https://abc.supabase.co/auth/v1/.well-known/jwks.json"
    assert settings.publishable_keys == {"default": "sb_publishable_hidden_word_0"}
    assert settings.database_connections == 16
    assert settings.telemetry is False


def test_several_named_keys_win_over_a_single_one() -> None:
    named = json.dumps({"web": "sb_publishable_of_the_web_00", "app": "sb_publishable_of_the_app_00"})
    settings = Settings.read(GOOD | {"SUPABASE_PUBLISHABLE_KEYS": named})
    assert list(settings.publishable_keys) == ["web", "app"]


def test_configured_keys_are_not_refreshed_without_a_url() -> None:
    keys = json.dumps({"keys": [public_jwk()]})
    assert Settings.read(GOOD | {"SUPABASE_JWKS": keys}).jwks_url is None
    both = Settings.read(GOOD | {"SUPABASE_JWKS": keys, "SUPABASE_JWKS_URL": "https://abc.supabase.co/jwks"})
    assert both.jwks_url == "https://abc.supabase.co/jwks"


def test_empty_variable_is_unset() -> None:
    empty = dict.fromkeys(("SUPABASE_JWT_SECRET", "STRIPE_SECRET_KEY", "DATABASE_CONNECTIONS", "SUPABASE_JWKS"), " ")
    assert Settings.read(GOOD | empty) == Settings.read(GOOD)


def test_live_mode_follows_the_stripe_key() -> None:
    for key, real in ("sk_test_1", False), ("rk_test_1", False), ("sk_live_1", True), ("rk_live_1", True), ("", False):
        assert Settings.read(GOOD | {"STRIPE_SECRET_KEY": key}).stripe_livemode is real, key


def test_several_webhook_secrets_are_accepted() -> None:
    one = {"STRIPE_WEBHOOK_SECRET": "whsec_old"}
    assert Settings.read(GOOD | one).stripe_webhook_secrets == ("whsec_old",)
    several = one | {"STRIPE_WEBHOOK_SECRETS": "whsec_new, whsec_old"}
    assert Settings.read(GOOD | several).stripe_webhook_secrets == ("whsec_new", "whsec_old")


def test_origins_to_return_to_are_compared_in_lower_case() -> None:
    settings = Settings.read(GOOD | {"RETURN_ORIGINS": "https://App.example.com/, http://127.0.0.1:3000"})
    assert settings.return_origins == ("https://app.example.com", "http://127.0.0.1:3000")


PRIVATE = json.dumps({"keys": [public_jwk() | {"d": "hidden-word"}]})


@pytest.mark.parametrize(
    ("variable", "value", "found"),
    [
        ("SUPABASE_URL", "", "nothing"),
        ("SUPABASE_URL", "abc.supabase.co", "'abc.supabase.co'"),
        ("SUPABASE_URL", "ftp://abc.supabase.co", "ftp"),
        ("SUPABASE_URL", "https://abc.supabase.co/rest/v1", "has a path"),
        ("SUPABASE_DB_URL", "", "nothing"),
        ("SUPABASE_DB_URL", "hidden-word", "no scheme"),
        ("SUPABASE_DB_URL", "mysql://a:hidden-word@b", "'mysql'"),
        ("SUPABASE_DB_URL", "postgresql://:hidden-word@host", "no user"),
        ("SUPABASE_DB_URL", "postgresql://user@/postgres", "no host"),
        ("SUPABASE_PUBLISHABLE_KEY", "sb_secret_hidden-word-000000", "begins otherwise"),
        ("SUPABASE_SECRET_KEY", "sb_secret_short", "15 characters"),
        ("SUPABASE_SECRET_KEYS", "hidden-word", "Expecting value"),
        ("SUPABASE_SECRET_KEYS", '["hidden-word"]', "no object"),
        ("SUPABASE_SECRET_KEYS", '{"default": 7}', "no object"),
        ("SUPABASE_JWKS", "hidden-word", "Expecting value"),
        ("SUPABASE_JWKS", "{}", "no keys"),
        ("SUPABASE_JWKS", '{"keys": [{"kty": "oct", "k": "hidden-word"}]}', "not EC or RSA"),
        ("SUPABASE_JWKS", '{"keys": [{"kty": "EC", "crv": "P-256", "x": "hidden-word"}]}', "without y"),
        ("SUPABASE_JWKS", PRIVATE, "private key"),
        ("SUPABASE_JWKS_URL", "/keys", "'/keys'"),
        ("SUPABASE_JWT_SECRET", "hidden-word", "11 bytes"),
        ("SUPABASE_SIGNING_KEY", "hidden-word", "Expecting value"),
        ("SUPABASE_SIGNING_KEY", '{"kty": "RSA", "d": "hidden-word"}', "no key of this kind"),
        ("SUPABASE_SIGNING_KEY", json.dumps(public_jwk()), "without d"),
        ("DATABASE_CONNECTIONS", "0", "'0'"),
        ("DATABASE_CONNECTIONS", "many", "'many'"),
        ("STRIPE_SECRET_KEY", "pk_live_hidden-word", "begins otherwise"),
        ("STRIPE_WEBHOOK_SECRET", "hidden-word", "begins otherwise"),
        ("STRIPE_WEBHOOK_SECRETS", "whsec_a,hidden-word", "begins otherwise"),
        ("STRIPE_API_BASE", "https://api.stripe.com/v1", "has a path"),
        ("RETURN_ORIGINS", "https://app.test,app.test", "'app.test'"),
    ],
)
def test_settings_error_names_the_variable_without_its_value(variable: str, value: str, found: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.read(GOOD | {variable: value})
    message = str(caught.value)
    assert message.startswith(f"{variable}: found ")
    assert found in message
    assert "; expected " in message
    assert "hidden-word" not in message


def test_telemetry_follows_otel_variables() -> None:
    receiver = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    assert Settings.read(GOOD | receiver).telemetry
    assert not Settings.read(GOOD | receiver | {"OTEL_SDK_DISABLED": "true"}).telemetry


def test_no_secret_can_be_printed_with_the_settings() -> None:
    more = {"SUPABASE_JWT_SECRET": "hidden-word" * 3, "STRIPE_SECRET_KEY": "sk_test_hidden"}
    assert "hidden" not in repr(Settings.read(GOOD | more))


@given(variable=st.sampled_from(sorted(GOOD)), value=st.text())
def test_any_setting_is_read_or_named(variable: str, value: str) -> None:
    output = variable
    try:
        Settings.read(GOOD | {variable: value})
    except SettingsError as error:
        output = str(error)
    assert output.startswith(variable)
