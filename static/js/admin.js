/** Wide lists of the admin scroll sideways: the keyboard can focus and scroll them. */

const makeFocusable = () => {
  for (const list of document.querySelectorAll(".results")) {
    if (list.scrollWidth > list.clientWidth) list.tabIndex = 0;
    else list.removeAttribute("tabindex");
  }
};
addEventListener("resize", makeFocusable);
makeFocusable();
