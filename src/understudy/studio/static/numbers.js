/** Numbers as people read them. */

const PREFIXES = ["", "k", "M", "G", "T", "P", "E"];

/** Three figures and a prefix: 108e9 is ["108", "G"]. */
export function scaled(value) {
  let rank = 0;
  while (Math.abs(value) >= 999.5 && rank < PREFIXES.length - 1) {
    value /= 1000;
    rank += 1;
  }
  return [figures(value), PREFIXES[rank]];
}

/** Three significant figures without an exponent. */
export function figures(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 99.95) return value.toFixed(0);
  if (size >= 9.995) return value.toFixed(1);
  if (size >= 0.9995) return value.toFixed(2);
  return size >= 0.0001 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

export function percent(share) {
  return `${(100 * share).toFixed(1).replace("-0.0", "0.0").replace("-", "\u2212")}\u202f%`;
}

/** A count that may be an expectation: 15, or 40.2. */
export function count(value) {
  return Number.isInteger(value) ? String(value) : value.toFixed(value < 10 ? 1 : 0);
}

export function seconds(value) {
  return value < 9.95 ? value.toFixed(2) : value < 99.5 ? value.toFixed(1) : value.toFixed(0);
}

export function milliseconds(value) {
  return `${figures(value)}\u202fms`;
}

export function plural(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
