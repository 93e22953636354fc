/** What the host page and the frame say to each other, by `postMessage`. */

export type FromFrame =
  /** Who is it? Asked at the start, and again when the gateway refuses the token. */
  | { readonly parley: "token?"; readonly id: number }
  /** The reader is done: hide the frame and take the focus back. */
  | { readonly parley: "close" }
  /** How many answers came while the frame was hidden: for a badge, and in words. Both are empty for none. */
  | { readonly parley: "unread"; readonly badge: string; readonly text: string };

export type FromHost =
  /** The answer to `token?` of that id. Null: there is none to be had. */
  | { readonly parley: "token"; readonly id: number; readonly token: string | null }
  | { readonly parley: "opened" }
  | { readonly parley: "closed" };
