"""The mails of Supabase Auth, in the layout of our own e-mails: supabase/templates, named in supabase/config.toml."""

from pathlib import Path

from local import ROOT
from shared.mail.message import template

FOLDER = ROOT / "supabase" / "templates"
LINK, CODE = "{{ .ConfirmationURL }}", "{{ .Token }}"
# Name of the template → title, message, label of the button; without a label it shows the code alone.
MAILS = {
    "confirmation": ("Confirm your address", "Confirm {{ .Email }} to finish signing up.", "Confirm"),
    "invite": ("You are invited", "An account was created for {{ .Email }}. Open the link to use it.", "Open"),
    "recovery": ("Reset your password", "Open the link and choose a new password.", "Choose a password"),
    "magic_link": ("Sign in", "Open the link to sign in; it works once.", "Sign in"),
    "email_change": (
        "Confirm your new address",
        "Your account changes from {{ .Email }} to {{ .NewEmail }}.",
        "Confirm",
    ),
    "reauthentication": ("Your confirmation code", "Enter this code to confirm that it is you.", None),
}


def files() -> dict[Path, str]:
    page = template("auth.html")
    return {
        FOLDER / f"{name}.html": page.render(title=title, message=message, label=label, link=LINK, code=CODE)
        for name, (title, message, label) in MAILS.items()
    }
