// What the theme leaves out for keyboards and screen readers.
document.querySelector('.md-search').setAttribute('aria-label', 'Search');
document$.subscribe(() => document.querySelectorAll('.md-typeset__scrollwrap').forEach((table) => (table.tabIndex = 0)));
