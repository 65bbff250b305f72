-- Runs statements as given callers, returns the outcomes, and rolls back. A stage is
--   before    statement that `supabase_admin` runs first, with triggers and foreign keys off; rolled back with the stage
--   bare      true: the statements run without triggers and foreign keys, with grants and policies only
--   state     query by `supabase_admin` for the state of the table
--   cells     the attempts, each rolled back by itself
-- and a cell
--   role, claims, headers   the caller, as the API sets it
--   topic                   the channel, as realtime sets it
--   statement, gives        the statement, and whether it returns one text
create function pg_temp.probe(cell jsonb, state text, earlier jsonb) returns jsonb language plpgsql as $$
declare
  came_back text;
  touched bigint;
  later jsonb := earlier;
  verdict jsonb;
begin
  begin
    perform set_config('request.jwt.claims', cell ->> 'claims', true),
      set_config('request.headers', cell ->> 'headers', true),
      set_config('realtime.topic', coalesce(cell ->> 'topic', ''), true), set_config('role', cell ->> 'role', true);
    if (cell ->> 'gives')::boolean then
      execute cell ->> 'statement' into came_back;
    else
      execute cell ->> 'statement';
    end if;
    get diagnostics touched = row_count;
    set constraints all immediate;
    perform set_config('role', 'none', true);
    if state is not null and touched > 0 then
      execute state into later;
    end if;
    verdict := jsonb_build_object('came_back', came_back, 'later', later);
    raise exception using errcode = 'UNDO0';
  exception when others then
    if sqlstate = 'UNDO0' then
      return verdict;
    end if;
    return jsonb_build_object('sqlstate', sqlstate, 'message', sqlerrm);
  end;
end $$;

create function pg_temp.stage(stage jsonb) returns jsonb language plpgsql as $$
declare
  earlier jsonb;
  verdicts jsonb;
begin
  begin
    if stage ? 'before' or (stage ->> 'bare')::boolean then
      perform set_config('session_replication_role', 'replica', true);
    end if;
    if stage ? 'before' then
      execute stage ->> 'before';
    end if;
    if not (stage ->> 'bare')::boolean then
      perform set_config('session_replication_role', 'origin', true);
    end if;
    if stage ? 'state' then
      execute stage ->> 'state' into earlier;
    end if;
    select jsonb_agg(pg_temp.probe(c.cell, stage ->> 'state', earlier) order by c.place) into verdicts
    from jsonb_array_elements(stage -> 'cells') with ordinality c (cell, place);
    raise exception using errcode = 'UNDO0';
  exception when sqlstate 'UNDO0' then
    return jsonb_build_object('earlier', earlier, 'verdicts', verdicts);
  end;
end $$;
