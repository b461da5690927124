// Tells the server which time zone the viewer is in; console/timezone.py reads it.
"use strict";
{
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    if (zone && !document.cookie.includes(`bramley_timezone=${zone}`)) {
        const secure = location.protocol === "https:" ? "; secure" : "";
        document.cookie = `bramley_timezone=${zone}; path=/; max-age=31536000; samesite=lax${secure}`;
    }
}
