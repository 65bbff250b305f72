-- CRM search terms: the words by which listings, contacts, leads and deals are found. The tables' search indexes hold them.

create extension if not exists pg_trgm with schema extensions;
create extension if not exists btree_gin with schema extensions;

create function private.digits(phone text) returns text
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  return regexp_replace(phone, '\D', '', 'g');
end $$;
comment on function private.digits(text) is 'A phone number without what people write between its digits.';

create function private.same_phone(phone text) returns text
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  -- The last ten digits: with or without the code of the country it is one number. Fewer than seven are an extension.
  return case when length(private.digits(phone)) >= 7 then right(private.digits(phone), 10) end;
end $$;
comment on function private.same_phone(text) is 'What two ways to write one phone number have in common.';
create function private.search_words(written text) returns text[]
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  -- Endings that half of all addresses have do not narrow a search.
  return array_remove(string_to_array(
    translate(regexp_replace(lower(written), '\.(com|net|org)\M', ' ', 'g'), '@.,:;!?/\|&()"<>-_+#%*''’', '                      '), ' '
  ), '');
end $$;
comment on function private.search_words(text) is
  'The words of a text as they are searched. The indexes store them: a change of this function requires a reindex.';

create function private.search_terms(org uuid, phone text, variadic parts text[]) returns tsvector
language plpgsql immutable parallel safe set search_path = '' as $$
declare
  tenant constant text := left(org::text, 8);
  -- Each word has three blotted forms. Their prefix is one hex digit instead of the whole tenant prefix: that keeps the
  -- lists short without making too many different terms.
  blot constant text := left(tenant, 1) || '*';
  digits constant text := right(private.digits(phone), 10);
  terms text[] := '{}';
  word text;
  one integer;
  two integer;
begin
  foreach word in array private.search_words(array_to_string(parts, ' ')) loop
    terms := terms || (tenant || word);
    -- A typing error is in the first, second or last third of a word; the form without that third is not affected by
    -- it.
    word := rtrim(word, '0123456789');
    if length(word) > 3 then
      one := (length(word) + 2) / 3;
      two := (2 * length(word) + 2) / 3;
      terms := terms || array[
        blot || repeat('*', one) || substr(word, one + 1),
        blot || left(word, one) || repeat('*', two - one) || substr(word, two + 1),
        blot || left(word, two) || repeat('*', length(word) - two)
      ];
    end if;
  end loop;
  if digits <> '' then
    terms := terms || array[tenant || digits, tenant || right(digits, 7), tenant || right(digits, 4)];
  end if;
  return array_to_tsvector(terms);
end $$;
comment on function private.search_terms(uuid, text, text[]) is
  'The search terms of a row: its words, prefixed with the start of its organization''s id, so that lists do not grow'
  ' with other tenants; each word with one third blotted out, for typing errors; its phone number by its last digits.';
grant execute on function private.digits(text), private.same_phone(text), private.search_words(text),
  private.search_terms(uuid, text, text[]) to authenticated, service_role;
