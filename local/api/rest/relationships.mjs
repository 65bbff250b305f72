// Which relationship an embedded name means: `clients`, `clients!fk`, `fk`, `client_id`.
import { restError } from '../errors.mjs';

export function findLink(catalog, from, { relation: target, hint }, schema) {
  const candidates = catalog.linksFrom(from).filter(({ to }) => to.schema === schema);
  const meant = candidates.filter((link) => isTarget(link, target) && (hint === null || isHint(link, hint)));
  const found = meant.length > 1 ? withoutTheWayBack(meant, hint) : meant;
  if (found.length === 1) return found[0];
  if (found.length === 0) throw unknown(candidates, from, target, hint, schema);
  throw ambiguous(found, from, target);
}

function isTarget(link, target) {
  return link.to.name === target || (link.key && (link.constraint === target || column(link) === target));
}

function isHint(link, hint) {
  if (link.junction) return link.junction.relation.name === hint;
  return link.constraint === hint || (link.on.length === 1 && link.on[0].includes(hint));
}

const column = ({ on }) => (on?.length === 1 ? on[0][0] : undefined);

/** A relation that refers to itself is reached upwards by its column, and downwards by its own name with a hint. */
function withoutTheWayBack(links, hint) {
  if (hint === null || links.some(({ from, to }) => from !== to)) return links;
  const downwards = links.filter(({ key, junction }) => !key && !junction);
  return downwards.length === 1 ? downwards : links;
}

function unknown(candidates, from, target, hint, schema) {
  const like = candidates.map(({ to }) => to.name).find((name) => name.startsWith(target.slice(0, 3)));
  return restError(
    400,
    'PGRST200',
    `Could not find a relationship between '${from.name}' and '${target}' in the schema cache`,
    `Searched for a foreign key relationship between '${from.name}' and '${target}'` +
      `${hint === null ? '' : ` using the hint '${hint}'`} in the schema '${schema}', but no matches were found.`,
    like ? `Perhaps you meant '${like}' instead of '${target}'.` : null,
  );
}

function ambiguous(links, from, target) {
  const choices = links.map((link) => `'${target}!${link.constraint ?? link.junction.relation.name}'`);
  return restError(
    300,
    'PGRST201',
    `Could not embed because more than one relationship was found for '${from.name}' and '${target}'`,
    links.map((link) => ({
      cardinality: link.kind,
      embedding: `${from.name} with ${link.to.name}`,
      relationship: link.junction
        ? `${link.junction.relation.name} using ${ends(link.junction.near)} and ${ends(link.junction.far)}`
        : `${link.constraint} using ${ends(link)}`,
    })),
    `Try changing '${target}' to one of the following: ${[...new Set(choices)].join(', ')}. ` +
      "Find the desired relationship in the 'details' key.",
  );
}

const ends = ({ constraint, from, to, on }) =>
  `${constraint ?? ''} ${from.name}(${on.map(([a]) => a).join(', ')}) and ${to.name}(${on.map(([, b]) => b).join(', ')})`.trim();
