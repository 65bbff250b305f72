"""What Stripe tells us, read: signatures, events, objects of every shape."""
