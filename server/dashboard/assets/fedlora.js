// Loaded before the page. Light or dark: by choice, else as the system is; a cookie tells the server, which draws charts.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const wanted = () => localStorage.getItem("fedlora-scheme") || (system.matches ? "dark" : "light");
  const told = () => (document.cookie.match(/(?:^|; )fedlora-scheme=(\w+)/) || [])[1];
  const drawnIn = document.querySelector('meta[name="fedlora-scheme"]')?.content; // none on the login page
  const apply = () => {
    document.documentElement.classList.toggle("dark", wanted() === "dark");
    document.cookie = `fedlora-scheme=${wanted()}; path=/; max-age=31536000; samesite=lax`;
    if (drawnIn === undefined || drawnIn === wanted()) return;
    if (told() !== wanted()) return; // a browser without cookies stays as it is
    if (document.readyState === "complete") location.reload();
    else addEventListener("load", () => location.reload()); // a reload before that can be lost
  };
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#scheme")) return;
    localStorage.setItem("fedlora-scheme", wanted() === "dark" ? "light" : "dark");
    apply();
  });
  system.addEventListener("change", apply);
  apply();
})();
