// Runs before anything is painted, so that a chosen theme never flashes up as the other one.
try {
  const theme = localStorage.getItem("parley.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is forbidden: the theme is the device's.
}
