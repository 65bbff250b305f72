-- Every column that a client may write is bounded by its type. A chapter after this one that grants a column calls this again.

select private.bound_client_columns();
