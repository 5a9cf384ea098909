-- Laboratory values of the dynamic features; kept by patient and time, as hadm_id may be missing.
-- Inputs:  labevents, items, features, stays; variables specimen_item (text: type of the tube),
--          last_hour (later ones are not needed), quirks
-- Output:  subject_id, specimen_id, feature, drawn_at, reported_at, value; in_range; usable: FALSE
--          for a gas whose tube is not marked arterial.
-- Rule:    results seen so long before ICU admission that no value of theirs is held are left out.
-- Quirk:   no_base_deficit.
WITH specimens AS (
    SELECT specimen_id, max(trim(value)) AS specimen
    FROM labevents
    WHERE itemid = getvariable('specimen_item')
    GROUP BY specimen_id
)
SELECT l.subject_id, l.specimen_id, f.name AS feature, l.charttime AS drawn_at,
    greatest(l.charttime, coalesce(l.storetime, l.charttime)) AS reported_at,
    l.valuenum AS value,
    l.valuenum BETWEEN f.low AND f.high
        AND NOT (list_contains(getvariable('quirks'), 'no_base_deficit')
            AND f.name = 'base_excess' AND l.valuenum <= 0) AS in_range,
    f.kind <> 'gas' OR coalesce(s.specimen = 'ART.', FALSE) AS usable
FROM labevents l
JOIN items i ON i.source = 'labevents' AND i.itemid = l.itemid
JOIN features f ON f.name = i.role
LEFT JOIN specimens s USING (specimen_id)
SEMI JOIN stays ON stays.subject_id = l.subject_id
    -- the last hour of the SOFA grid may end a little after it
    AND l.charttime < stays.intime + to_hours(getvariable('last_hour') + 1)
    AND greatest(l.charttime, coalesce(l.storetime, l.charttime))
        >= stays.intime - to_hours((SELECT max(hold_hours) FROM features))
WHERE l.valuenum IS NOT NULL
