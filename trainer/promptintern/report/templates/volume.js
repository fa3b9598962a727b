const field = document.getElementById("volume"), fixed = document.getElementById("volume-fixed");
const show = number => number.toLocaleString("en", {maximumFractionDigits: number < 100 ? 2 : 0});
const update = () => {
  const volume = Math.min(Math.max(Number(field.value) || 0, 0), 1e12);
  for (const place of document.querySelectorAll("[data-each]")) place.textContent = show(volume * place.dataset.each);
  for (const place of document.querySelectorAll("[data-after]")) {
    const days = place.dataset.after / volume * 30;
    place.textContent = !volume ? "an unknown time" : days < 1 ? "less than a day" : `${show(days)} days`;
  }
};
field.hidden = false;
fixed.hidden = true;
field.addEventListener("input", update);
update();  // a browser may have kept what was typed before
