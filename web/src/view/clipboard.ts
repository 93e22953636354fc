/** Puts text where it can be pasted from. */

/** Throws where the browser does not allow it. A page that came over plain HTTP has to do it the old way. */
export async function copyText(text: string): Promise<void> {
  const clipboard = navigator.clipboard as Clipboard | undefined; // only secure origins have one
  if (clipboard) return clipboard.writeText(text);
  const before = document.activeElement;
  const box = document.createElement("textarea");
  box.value = text;
  box.className = "unseen";
  (document.querySelector("dialog[open]") ?? document.body).append(box); // outside of a modal dialog nothing can be selected
  box.select();
  const isCopied = document.execCommand("copy");
  box.remove();
  if (before instanceof HTMLElement) before.focus();
  if (!isCopied) throw new Error("the browser does not copy");
}
