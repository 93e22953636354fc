/** Drawn by us, on a grid of 20; decoration beside a label that is always there. */

import type { ReactNode } from "react";

const PATHS = {
  add: "M10 4v12M4 10h12",
  archive: "M3.500 5h13v3h-13zM4.500 8v8h11V8M8 11h4",
  check: "m4.500 10.500 3.500 3.500 7.500-8",
  chevronDown: "m5 8 5 5 5-5",
  chevronLeft: "m12 5-5 5 5 5",
  chevronRight: "m8 5 5 5-5 5",
  close: "m5 5 10 10M15 5 5 15",
  copy: "M7 7h9v9H7zM4 13V4h9",
  down: "M10 4v12m-5-5 5 5 5-5",
  edit: "m4 16 .800-3.200L13.500 4l2.500 2.500-8.800 8.700z",
  keyboard: "M2.500 5.500h15v9h-15zM5.500 8.500h.010M8.500 8.500h.010M11.500 8.500h.010M14.500 8.500h.010M7 11.500h6",
  leave: "M8 4H4v12h4M8 10h9m-3-3 3 3-3 3",
  menu: "M3 6h14M3 10h14M3 14h14",
  more: "M5 10h.010M10 10h.010M15 10h.010",
  search: "M9 4a5 5 0 1 0 0 10A5 5 0 0 0 9 4Zm3.700 8.700L17 17",
  send: "M10 16V4m-5 5 5-5 5 5",
  stop: "M6 6h8v8H6z",
  tasks: "m3 5.500 1.500 1.500L7 4.500M10 6h7M3 13.500 4.500 15 7 12.500M10 14h7",
  tool: "M12.500 3.500a4 4 0 0 0-4.800 5.200L3.500 13a1.800 1.800 0 0 0 2.500 2.500l4.300-4.200a4 4 0 0 0 5.200-4.800L13 9l-2-2z",
  trash: "M4 6h12M8 6V4h4v2M6 6l.700 10h6.600L14 6",
  attach: "m15 9-5.200 5.200a3.200 3.200 0 0 1-4.500-4.500L10.800 4.200a2.100 2.100 0 0 1 3 3L8.500 12.500a1 1 0 0 1-1.500-1.500l4.700-4.700",
  bad: "M7 4.500v7l3.200 5a1.600 1.600 0 0 0 1.700-1.600V12h3.300a1.500 1.500 0 0 0 1.500-1.800l-.900-4.400a1.600 1.600 0 0 0-1.600-1.300zM4 4.500v7",
  file: "M5.500 3h6l3.500 3.500V17h-9.500zM11.500 3v3.500H15",
  good: "M7 15.500v-7l3.200-5a1.600 1.600 0 0 1 1.700 1.600V8h3.300a1.500 1.500 0 0 1 1.500 1.800l-.900 4.400a1.600 1.600 0 0 1-1.600 1.300zM4 15.500v-7",
  save: "M10 3.500v9m-4-4 4 4 4-4M4 16.500h12",
  settings: "M4 6h6.500M14.500 6H16M4 14h1.500M9.500 14H16M10.500 6a2 2 0 1 0 4 0 2 2 0 0 0-4 0ZM5.500 14a2 2 0 1 0 4 0 2 2 0 0 0-4 0Z",
  share: "M10 12.500V3.500m-3.500 3.500L10 3.500 13.500 7M6 9.500H4.500v7h11v-7H14",
  again: "M4.500 10a5.500 5.500 0 1 1 1.700 4M4.500 16v-3.500H8",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { readonly name: IconName }): ReactNode {
  return (
    <svg className={`icon icon-${name}`} viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
