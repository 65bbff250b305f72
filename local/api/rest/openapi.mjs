// The data API described as OpenAPI 2.0, from the schema cache; comments in the database become descriptions.

const PRIMITIVES = {
  integer: 'integer',
  bigint: 'integer',
  smallint: 'integer',
  numeric: 'number',
  real: 'number',
  'double precision': 'number',
  boolean: 'boolean',
};

export function openApi(catalog, schema, origin) {
  const relations = catalog.relationsOf(schema);
  const paths = Object.fromEntries(relations.map((relation) => [`/${relation.name}`, methodsOf(relation)]));
  for (const fn of catalog.functionsOf(schema)) paths[`/rpc/${fn.name}`] = { post: call(fn) };
  return {
    swagger: '2.0',
    info: {
      title: 'Strive data API',
      description: 'Tables, views and functions, under row-level security.',
      version: '14',
    },
    host: new URL(origin).host,
    basePath: '/rest/v1',
    consumes: ['application/json', 'text/csv'],
    produces: ['application/json', 'text/csv'],
    paths,
    definitions: Object.fromEntries(relations.map((relation) => [relation.name, definition(relation)])),
  };
}

function methodsOf({ name, description }) {
  const summary = { tags: [name], ...(description ? { summary: description } : {}) };
  const body = { name: 'body', in: 'body', schema: { $ref: `#/definitions/${name}` } };
  const done = { ...summary, responses: { 200: { description: 'OK' } } };
  return { get: done, post: { ...done, parameters: [body] }, patch: { ...done, parameters: [body] }, delete: done };
}

function call({ name, description, parameters }) {
  const properties = Object.fromEntries(parameters.map((each) => [each.name, typed(each.type)]));
  const required = parameters.filter((each) => each.required).map((each) => each.name);
  return {
    tags: [`(rpc) ${name}`],
    ...(description ? { summary: description } : {}),
    parameters: [
      { name: 'args', in: 'body', schema: { type: 'object', properties, ...(required.length ? { required } : {}) } },
    ],
    responses: { 200: { description: 'OK' } },
  };
}

function definition({ columns, description }) {
  const all = [...columns.values()];
  const required = all.filter(({ nullable, default: value, identity }) => !nullable && !value && !identity);
  return {
    type: 'object',
    ...(description ? { description } : {}),
    ...(required.length ? { required: required.map(({ name }) => name) } : {}),
    properties: Object.fromEntries(
      all.map((column) => [
        column.name,
        {
          ...typed(column.type),
          ...(column.values ? { enum: column.values } : {}),
          ...(column.description ? { description: column.description } : {}),
        },
      ]),
    ),
  };
}

function typed(type) {
  if (type.endsWith('[]')) return { type: 'array', items: typed(type.slice(0, -2)), format: type };
  if (type === 'json' || type === 'jsonb') return { format: type };
  return { type: PRIMITIVES[type.replace(/\(.*\)/, '')] ?? 'string', format: type };
}
