const UNITS = { '': 1, b: 1, kb: 1e3, mb: 1e6, gb: 1e9, kib: 2 ** 10, mib: 2 ** 20, gib: 2 ** 30 };

/** 5242880, 5MB, 50MiB as bytes; undefined for anything else. */
export function bytesOf(text) {
  const [, count, unit] = /^(\d+(?:\.\d+)?)\s*([kmg]?i?b?)$/i.exec(String(text)) ?? [];
  const factor = UNITS[unit?.toLowerCase()];
  return factor === undefined ? undefined : Math.floor(Number(count) * factor);
}
