-- Every column that a client may write is bounded by its type. A chapter after this one that grants a column calls this again.

select private.bound_client_columns();

-- An invalid row is refused with the field, what was found and what is accepted. Before a column that a check has is changed
-- or dropped, drop the trigger word_refusal of its table; then call this again.
select private.word_refusals();
