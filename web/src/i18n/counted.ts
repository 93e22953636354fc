/** Numbers with the form of the word that goes with them. */

/** For languages that have two forms. */
export function counting(tag: string): (n: number, one: string, many: string) => string {
  const rules = new Intl.PluralRules(tag);
  const numbers = new Intl.NumberFormat(tag);
  return (n, one, many) => `${numbers.format(n)} ${rules.select(n) === "one" ? one : many}`;
}
