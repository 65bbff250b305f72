// The Prefer header: `return=representation, count=exact, resolution=merge-duplicates, …`
import { restError } from '../errors.mjs';

const KNOWN = {
  return: ['minimal', 'headers-only', 'representation'],
  count: ['exact', 'planned', 'estimated'],
  resolution: ['merge-duplicates', 'ignore-duplicates'],
  missing: ['default', 'null'],
  handling: ['strict', 'lenient'],
  tx: ['commit', 'rollback'],
  'max-affected': /^\d+$/,
  timezone: isTimeZone,
};

export class Preferences {
  constructor(request) {
    const given = (request.headers.prefer ?? '')
      .split(',')
      .map((each) => each.trim())
      .filter(Boolean);
    const chosen = {};
    const wrong = [];
    for (const preference of given) {
      const [name, value = ''] = preference.split('=', 2);
      if (!isKnown(KNOWN[name], value)) wrong.push(preference);
      else chosen[name] ??= value;
    }
    this.strict = chosen.handling === 'strict';
    if (this.strict && wrong.length > 0) {
      throw restError(
        400,
        'PGRST122',
        'Invalid preferences given with handling=strict',
        `Invalid preferences: ${wrong.join(', ')}`,
      );
    }
    this.chosen = chosen;
    this.returning = chosen.return ?? 'minimal';
    this.count = chosen.count ?? null;
    this.resolution = chosen.resolution ?? null;
    this.useDefaults = chosen.missing === 'default';
    this.maxAffected = this.strict && chosen['max-affected'] ? Number(chosen['max-affected']) : null;
    this.settings = chosen.timezone ? { timezone: chosen.timezone } : {};
  }

  /** Those that made a difference, for the Preference-Applied header. */
  applied(names) {
    const told = ['handling', 'timezone', 'max-affected', ...names].filter((name) => this.chosen[name]);
    return told.length ? { 'preference-applied': told.map((name) => `${name}=${this.chosen[name]}`).join(', ') } : {};
  }
}

function isKnown(allowed, value) {
  if (allowed === undefined) return false;
  if (Array.isArray(allowed)) return allowed.includes(value);
  return allowed instanceof RegExp ? allowed.test(value) : allowed(value);
}

function isTimeZone(name) {
  try {
    return Boolean(new Intl.DateTimeFormat('en', { timeZone: name }));
  } catch {
    return false;
  }
}
