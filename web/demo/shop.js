// A shop of one page, as single-page applications are: links change the address and what is in main, and load nothing.
addEventListener("click", (event) => {
  const link = event.target instanceof Element && event.target.closest("nav a");
  if (!link) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  const heading = document.createElement("h1");
  heading.textContent = link.textContent;
  document.querySelector("main").replaceChildren(heading);
});
