"""The mailbox page: e-mails of the functions by SMTP, mails of Auth, both as a mail program shows them."""

import smtplib
from email.message import EmailMessage
from html import unescape
from pathlib import Path

from local.stack import free_port
from tests.local.api import running
from tests.support.world import Database


def test_mailbox_shows_emails_rendered_and_without_scripts(database: Database, tmp_path: Path) -> None:
    port = free_port()
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Über <b>uns</b>", "a@strive.test", "ada@strive.test"
    message.set_content("text")
    message.add_alternative("<head></head><h1>Hello</h1><script>alert(1)</script>", subtype="html")
    with running(database, tmp_path, SMTP_PORT=str(port)) as api:
        with smtplib.SMTP("127.0.0.1", port) as smtp:
            smtp.send_message(message)
        page = api.http().get("/mail").text
        assert "Über &lt;b&gt;uns&lt;/b&gt;" in page
        _, _, frame = page.partition('<iframe sandbox="allow-popups"')
        assert "<h1>Hello</h1>" not in page
        assert "<h1>Hello</h1>" in unescape(frame)
        assert api.http().post("/auth/v1/recover", json={"email": "member@strive.test"}).status_code == 200
        mail = unescape(api.http().get("/mail").text.partition("srcdoc=")[2].partition("</iframe>")[0])
        assert "Choose a password" in mail
        assert "{{" not in mail
