// What the data API knows of the database: relations, how they refer to each other, functions, settings of its roles.
// Read from pg_catalog alone, which every role may see; what a caller may do is decided by Postgres on each request.

const RELATIONS = `
  select n.nspname as schema, c.relname as name, c.relkind as kind, obj_description(c.oid, 'pg_class') as description,
    json_agg(json_build_object(
      'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'base', format_type(b.oid, null),
      'nullable', not a.attnotnull, 'default', pg_get_expr(d.adbin, d.adrelid), 'identity', a.attidentity <> '',
      'generated', a.attgenerated <> '', 'description', col_description(c.oid, a.attnum), 'number', a.attnum,
      'values', (select json_agg(enumlabel order by enumsortorder) from pg_enum where enumtypid = b.oid)
    ) order by a.attnum) as columns,
    (select json_agg(k.attname order by x.position)
       from pg_index i, unnest(i.indkey::int2[]) with ordinality x(number, position), pg_attribute k
      where i.indrelid = c.oid and i.indisprimary and k.attrelid = c.oid and k.attnum = x.number) as key,
    (select json_agg((select json_agg(u.attname) from pg_attribute u where u.attrelid = c.oid and u.attnum = any(i.indkey)))
       from pg_index i where i.indrelid = c.oid and i.indisunique and i.indpred is null and i.indexprs is null) as uniques,
    c.oid::text as oid,
    case when c.relkind in ('v', 'm') then (select r.ev_action::text from pg_rewrite r
      where r.ev_class = c.oid and r.rulename = '_RETURN') end as definition
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  join pg_type t on t.oid = a.atttypid
  join pg_type b on b.oid = case when t.typtype = 'd' then t.typbasetype else t.oid end
  left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
  where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
    and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
  group by n.nspname, c.oid`;

const FOREIGN_KEYS = `
  select k.conname as name, json_build_array(n.nspname, c.relname) as source, json_build_array(fn.nspname, f.relname) as target,
    json_agg(json_build_array(a.attname, b.attname) order by x.position) as pairs
  from pg_constraint k
  join pg_class c on c.oid = k.conrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class f on f.oid = k.confrelid
  join pg_namespace fn on fn.oid = f.relnamespace
  cross join unnest(k.conkey, k.confkey) with ordinality x(source, target, position)
  join pg_attribute a on a.attrelid = c.oid and a.attnum = x.source
  join pg_attribute b on b.attrelid = f.oid and b.attnum = x.target
  where k.contype = 'f' and k.conparentid = 0
  group by k.oid, n.nspname, c.relname, fn.nspname, f.relname`;

const FUNCTIONS = `
  select n.nspname as schema, p.proname as name, p.provolatile as volatility, p.proretset as set, p.pronargdefaults as defaults,
    obj_description(p.oid, 'pg_proc') as description, p.provariadic <> 0 as variadic,
    coalesce(to_json(p.proargnames), '[]') as names, coalesce(to_json(p.proargmodes::text[]), '[]') as modes,
    (select coalesce(json_agg(format_type(u.type, null) order by u.position), '[]')
       from unnest(p.proargtypes::oid[]) with ordinality u(type, position)) as types,
    t.typtype as "returnKind", format_type(p.prorettype, null) as "returnType",
    (select json_build_array(rn.nspname, rc.relname) from pg_class rc join pg_namespace rn on rn.oid = rc.relnamespace
      where rc.oid = t.typrelid and rc.relkind in ('r', 'p', 'v', 'm', 'f')) as returns
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  join pg_type t on t.oid = p.prorettype
  where p.prokind = 'f' and n.nspname = any($1)
    and t.typname not in ('trigger', 'event_trigger')`;

const ROLE_SETTINGS = `
  select r.rolname as role, split_part(s.setting, '=', 1) as name, substr(s.setting, strpos(s.setting, '=') + 1) as value
  from pg_db_role_setting d
  join pg_roles r on r.oid = d.setrole
  cross join unnest(d.setconfig) s(setting)
  where d.setdatabase in (0, (select oid from pg_database where datname = current_database()))
    and r.rolname in ('authenticator', 'anon', 'authenticated', 'service_role')`;

const key = (schema, name) => `${schema}\u0000${name}`;

export class Catalog {
  constructor(database, { schemas, maxRows }) {
    this.database = database;
    this.defaults = { schemas, maxRows };
  }

  /** The newest knowledge; while it is being read again, callers wait for it. */
  current() {
    return this.reading ?? this.read();
  }

  /** Read again. Whoever asks while a reading is under way may have changed something after it began: it reads once more. */
  read() {
    const started = (this.last ?? Promise.resolve()).catch(() => {}).then(() => this.#load());
    this.last = started;
    this.reading = started;
    started.catch(() => {
      if (this.reading === started) this.reading = undefined;
    });
    return started;
  }

  #load() {
    return this.database.asNobody(async (query) => {
      const settings = await query(ROLE_SETTINGS);
      const configured = configuration(settings, this.defaults);
      return new Snapshot({
        ...configured,
        roleSettings: roleSettings(settings),
        relations: await query(RELATIONS),
        foreignKeys: await query(FOREIGN_KEYS),
        functions: await query(FUNCTIONS, [configured.schemas]),
      });
    });
  }
}

/** `alter role authenticator set pgrst.…` outranks the environment, as on hosted Supabase. */
function configuration(settings, { schemas, maxRows }) {
  const own = Object.fromEntries(
    settings.filter(({ role }) => role === 'authenticator').map(({ name, value }) => [name, value]),
  );
  return {
    schemas: own['pgrst.db_schemas']?.split(',').map((name) => name.trim()) ?? schemas,
    maxRows: Number(own['pgrst.db_max_rows'] ?? maxRows),
    preRequest: own['pgrst.db_pre_request'] ?? null,
  };
}

/** Becoming a role does not bring the settings it has at login; timeouts must be set by hand. */
function roleSettings(settings) {
  const of = {};
  for (const { role, name, value } of settings) {
    if (role !== 'authenticator' && !name.includes('.')) (of[role] ??= {})[name] = value;
  }
  return of;
}

class Snapshot {
  constructor({ relations, foreignKeys, functions, ...settings }) {
    Object.assign(this, settings);
    this.relations = new Map(relations.map((row) => [key(row.schema, row.name), relation(row)]));
    this.functions = Map.groupBy(functions.map(asFunction), ({ schema, name }) => key(schema, name));
    this.links = Map.groupBy(links(foreignKeys, this.relations), ({ from }) => key(from.schema, from.name));
  }

  relation(schema, name) {
    return this.relations.get(key(schema, name));
  }

  relationsOf(schema) {
    return [...this.relations.values()].filter((each) => each.schema === schema);
  }

  functionsNamed(schema, name) {
    return this.functions.get(key(schema, name)) ?? [];
  }

  functionsOf(schema) {
    return [...this.functions.values()].flat().filter((each) => each.schema === schema);
  }

  linksFrom({ schema, name }) {
    return this.links.get(key(schema, name)) ?? [];
  }
}

function relation({ columns, key: primary, uniques, definition, ...rest }) {
  return {
    ...rest,
    columns: new Map(columns.map((column) => [column.name, column])),
    key: primary ?? [],
    uniques: uniques ?? [],
    origins: definition ? origins(definition, columns) : null,
  };
}

/**
 * Which column of which table a view shows under which name, from the view's parsed query: the entries of its outermost
 * target list say their own number, and the table and column they come from.
 */
function origins(definition, columns) {
  const named = new Map(columns.map(({ number, name }) => [number, name]));
  return targetEntries(definition).flatMap((entry) => {
    const [number, table, column] = ['resno', 'resorigtbl', 'resorigcol'].map(
      (field) => new RegExp(`:${field} (\\d+)`).exec(entry)?.[1],
    );
    const shown = named.get(Number(number));
    return table > 0 && shown ? [{ shown, table, number: Number(column) }] : [];
  });
}

function targetEntries(definition) {
  const found = [];
  let depth = 0;
  let inEntry = false;
  for (let at = 0; at < definition.length; at += 1) {
    if (definition[at] === '\\') {
      at += 1;
    } else if (definition[at] === '{') {
      depth += 1;
      if (depth === 2) inEntry = definition.startsWith('{TARGETENTRY', at);
    } else if (definition[at] === '}') {
      if (depth === 2 && inEntry) found.push(definition.slice(definition.lastIndexOf(':resno', at), at));
      depth -= 1;
    }
  }
  return found;
}

function asFunction({ names, modes, types, defaults, ...rest }) {
  const inputs = modes.length ? names.filter((_, index) => 'ibv'.includes(modes[index])) : names;
  const required = types.length - defaults;
  return {
    ...rest,
    parameters: types.map((type, index) => ({
      name: inputs[index] ?? '',
      type,
      required: index < required,
      variadic: rest.variadic && index === types.length - 1,
    })),
    // Output parameters and tables make rows with names; so do the types of relations.
    composite: rest.returnKind === 'c' || modes.some((mode) => 'obt'.includes(mode)),
    void: rest.returnType === 'void',
  };
}

/** Every way to get from one relation to another: along a foreign key, against it, and through a junction of two. */
function links(foreignKeys, relations) {
  const direct = [];
  for (const { name, source, target, pairs } of foreignKeys) {
    const sources = shownIn(
      relations,
      source,
      pairs.map(([column]) => column),
    );
    const targets = shownIn(
      relations,
      target,
      pairs.map(([, column]) => column),
    );
    for (const from of sources) {
      for (const to of targets) {
        const on = from.columns.map((column, index) => [column, to.columns[index]]);
        const single = relations
          .get(key(...source))
          .uniques.some(
            (unique) => unique.length === pairs.length && pairs.every(([column]) => unique.includes(column)),
          );
        const forth = { constraint: name, from: from.relation, to: to.relation, on };
        direct.push(
          { ...forth, many: false, kind: single ? 'one-to-one' : 'many-to-one', key: true },
          {
            constraint: name,
            from: to.relation,
            to: from.relation,
            on: on.map(([a, b]) => [b, a]),
            many: !single,
            kind: single ? 'one-to-one' : 'one-to-many',
            key: false,
          },
        );
      }
    }
  }
  return [...direct, ...junctions(direct)];
}

/** The relation that has these columns, and the views that show them all. */
function shownIn(relations, [schema, name], columns) {
  const table = relations.get(key(schema, name));
  if (!table) return [];
  const found = [{ relation: table, columns }];
  const numbers = columns.map((column) => table.columns.get(column).number);
  for (const view of relations.values()) {
    if (!view.origins) continue;
    const shown = numbers.map((number) => originOf(relations, view, table.oid, number));
    if (shown.every(Boolean)) found.push({ relation: view, columns: shown });
  }
  return found;
}

/** The name under which a view shows a table's column, also through the views it is made of. */
function originOf(relations, view, table, number) {
  for (const { shown, table: origin, number: column } of view.origins) {
    if (origin === table && column === number) return shown;
    const inner = [...relations.values()].find((each) => each.oid === origin && each.origins);
    const name = inner && originOf(relations, inner, table, number);
    if (name && inner.columns.get(name).number === column) return shown;
  }
  return undefined;
}

function junctions(direct) {
  const keys = direct.filter((link) => link.key && link.from.key.length > 0);
  const found = [];
  for (const near of keys) {
    for (const far of keys) {
      const within = [...near.on, ...far.on].every(([column]) => near.from.key.includes(column));
      if (near === far || near.from !== far.from || near.constraint === far.constraint || !within) continue;
      found.push({
        constraint: null,
        from: near.to,
        to: far.to,
        many: true,
        kind: 'many-to-many',
        key: false,
        junction: { relation: near.from, near, far },
      });
    }
  }
  return found;
}
