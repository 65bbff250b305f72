"""E-mail: templates, messages, the conversation with the SMTP server, and the outbox."""
