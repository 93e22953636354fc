/** An accent of the host's, made readable: links and buttons wear it on our papers, the light one and the dark one. */

const LIGHT_PAPER = "#ebebe6"; // the darkest of what it is seen on, as in tokens.css
const DARK_PAPER = "#2a2f38"; // the lightest
const CONTRAST_MIN = 4.5; // WCAG 2.2, 1.4.3
const STEP = 0.04;

type Channels = readonly [number, number, number];

/** The accent for either theme, as near to `colour` as can be read. `colour` is such as #1a2b3c. */
export function accentsOf(colour: string): { readonly light: string; readonly dark: string } {
  return { light: towards(colour, 0, LIGHT_PAPER), dark: towards(colour, 255, DARK_PAPER) };
}

/** How well two colours are told apart: 1 to 21. */
export function contrast(one: string, other: string): number {
  const [low = 0, high = 0] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** Mixed with black (0) or white (255) until it stands out from `paper`. */
function towards(colour: string, end: 0 | 255, paper: string): string {
  for (let part = 0; part < 1; part += STEP) {
    const mixed = hex(channels(colour).map((value) => Math.round(value + (end - value) * part)));
    if (contrast(mixed, paper) >= CONTRAST_MIN) return mixed;
  }
  return hex([end, end, end]);
}

function luminance(colour: string): number {
  const [red, green, blue] = channels(colour).map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  }) as unknown as Channels;
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function channels(colour: string): readonly number[] {
  return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
}

function hex(values: readonly number[]): string {
  return `#${values.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}
