/* The admin's wide lists scroll by themselves: then they can be reached and scrolled by the keyboard. */
(() => {
  "use strict";
  const reach = () => {
    for (const list of document.querySelectorAll(".results")) {
      if (list.scrollWidth > list.clientWidth) list.tabIndex = 0;
      else list.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", reach);
  reach();
})();
